//! A primary with a standby, embedded: what the one commits, the other has.
//!
//! ```text
//! cargo run -p pleach-examples --bin primary_and_standby
//! ```
//!
//! Both nodes live in this process, each with its data directory and its port, as they would on two machines.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use pleach_engine::{NewCommit, Options};
use pleach_protocol::{Databases, transport};
use pleach_replication::{Cluster, ClusterConfig, Role, StandbyRemote};
use tonic::transport::server::TcpIncoming;

async fn node(
    port: TcpIncoming,
    data_dir: &Path,
    role: Role,
    other: SocketAddr,
) -> Result<(Cluster, Databases), Box<dyn Error>> {
    let databases = Databases::new(data_dir, Options::default())?;
    let remote = StandbyRemote::new("other", &format!("http://{other}/{{database}}"));
    let config = ClusterConfig { bootstrap_role: role, ..ClusterConfig::new(vec![remote]) };
    let cluster = Cluster::start(config, databases.clone()).await?;
    tokio::spawn(transport().accept_http1(true).add_routes(cluster.routes()).serve_with_incoming(port));
    Ok((cluster, databases))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let bind = || -> Result<_, Box<dyn Error>> {
        Ok(TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true)))
    };
    let (here, there) = (bind()?, bind()?);
    let (here_address, there_address) = (here.local_addr()?, there.local_addr()?);
    let (primary, databases) =
        node(here, &directory.path().join("primary"), Role::Primary, there_address).await?;
    let (standby, copies) =
        node(there, &directory.path().join("standby"), Role::Standby, here_address).await?;

    let permit = primary.gate()?; // a node asks before each write whether it may
    let shop = databases.create("shop")?;
    primary.look_for_databases().await?;
    let mut transaction = shop.begin("main")?;
    transaction.create_table("fruit", None)?;
    transaction.put("fruit", b"apple", b"red")?;
    transaction.commit()?;
    let commit = shop.commit("main", NewCommit { message: "First".into(), ..NewCommit::default() })?;
    drop(permit);
    primary.caught_up().await;

    let copy = copies.get("shop")?.ok_or("the standby has no such database")?;
    assert_eq!(copy.branch("main")?.and_then(|branch| branch.head), Some(commit.hash));
    println!("the standby has commit {}", commit.hash);
    if let Err(refusal) = standby.gate() {
        println!("a write to the standby: {refusal}");
    }
    primary.shutdown().await;
    standby.shutdown().await;
    Ok(())
}
