//! An authority that issues certificates for tests, into files.

use std::os::unix::fs::PermissionsExt as _;

use pleach_tests::Sandbox;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

/// Issues certificates into files of a sandbox; its own is `NAME-ca.pem`.
pub(crate) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// One called `name`.
    pub(crate) fn new(sandbox: &Sandbox, name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        sandbox.write(&format!("{name}-ca.pem"), &params.self_signed(&key).unwrap().pem());
        Authority(Issuer::new(params, key))
    }

    /// Issues a certificate as NAME.pem and NAME.key: for the names, or the URI, of which one contains `//`.
    pub(crate) fn issue(
        &self,
        sandbox: &Sandbox,
        name: &str,
        names: &[&str],
        key: KeyPair,
        is_expired: bool,
    ) {
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("//"));
        let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        if is_expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        sandbox.write(&format!("{name}.pem"), &params.signed_by(&key, &self.0).unwrap().pem());
        let key = sandbox.write(&format!("{name}.key"), &key.serialize_pem());
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A key of the common kind.
pub(crate) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}
