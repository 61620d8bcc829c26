//! A remote that is a directory, some of whose objects changed, and were sealed again if they are manifests: fetched by who has nothing, and by who
//! was there before. An error of the peer, or refs that lead to whole commits; and the databases go on.
//!
//! Input: 5 bytes a change, at most 8: the object, what is done to it, two bytes where, one with what.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pleach_engine::{Database, Hash};
use pleach_protocol::{ErrorKind, Force, PushUpdate, RefPatterns, Remote, RemoteUrl, fetch, push};
use tokio::runtime::{Builder, Runtime};

mod exchange;

use exchange::{Image, Place, Specimen};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

struct Pushed {
    /// The objects after each push.
    images: [Image; 2],
    commits: [Hash; 2],
}

static PUSHED: LazyLock<Pushed> = LazyLock::new(|| {
    let specimen = Specimen::new();
    let place = Place::holding(Image::default());
    let images = specimen.commits.map(|commit| {
        let (remote, update) =
            (remote(place.clone()), PushUpdate { name: "heads/main".into(), new: Some(commit) });
        let pushed = run(push(&specimen.database, &remote, "o", &[update], Force::No));
        assert!(!pushed.expect("an honest push").is_rejected());
        place.0.lock().expect("nobody fails with it").clone()
    });
    Pushed { images, commits: specimen.commits }
});

fn remote(place: std::sync::Arc<Place>) -> Remote {
    Remote::at(&RemoteUrl::parse("file:///memory").expect("a URL"), place)
}

/// The last 32 bytes of a manifest are the hash of all before.
fn seal(object: &mut Vec<u8>) {
    if let Some(end) = object.len().checked_sub(Hash::LEN) {
        object.truncate(end);
        let hash = Hash::of(object);
        object.extend_from_slice(hash.as_bytes());
    }
}

fn change(image: &mut Image, [which, action, at @ .., value]: [u8; 5]) {
    let keys: Vec<String> = PUSHED.images[1].keys().cloned().collect();
    let key = keys[usize::from(which) % keys.len()].clone();
    let other = PUSHED.images[1][&keys[usize::from(value) % keys.len()]].clone();
    let object = image.entry(key.clone()).or_default();
    let (at, len) = (usize::from(u16::from_le_bytes(at)), object.len());
    match action % 6 {
        0 | 1 if len > 0 => object[at % len] ^= value | 1,
        2 => object.truncate(at % (len + 1)),
        3 => object.insert(at % (len + 1), value),
        4 => *object = other,
        5 => drop(image.remove(&key)),
        _ => {}
    }
}

/// Fetches; whatever comes of it, refs lead to what is whole.
fn fetched(database: &Database, image: &Image) {
    let known = database.refs("");
    let remote = remote(Place::holding(image.clone()));
    match run(fetch(database, &remote, "o", &RefPatterns::all())) {
        Ok(_) => {}
        Err(error) => {
            assert!(!matches!(error.kind(), ErrorKind::Store | ErrorKind::Input), "{error:?}");
            assert_eq!(database.refs(""), known, "{error}");
        }
    }
    exchange::check_whole(database);
}

fuzz_target!(|input: &[u8]| {
    let mut image = PUSHED.images[1].clone();
    input.as_chunks::<5>().0.iter().take(8).for_each(|bytes| change(&mut image, *bytes));
    image.iter_mut().filter(|(key, _)| key.starts_with("manifest/")).for_each(|(_, object)| seal(object));
    let [nobody, earlier] = [(); 2].map(|()| Database::memory().expect("a database"));
    let honest = |image: &Image| remote(Place::holding(image.clone()));
    run(fetch(&earlier, &honest(&PUSHED.images[0]), "o", &RefPatterns::all())).expect("an honest fetch");
    fetched(&nobody, &image);
    fetched(&earlier, &image);
    for database in [nobody, earlier] {
        // What was remembered of the changed remote may be in the way of the honest one, but never of the truth.
        if run(fetch(&database, &honest(&PUSHED.images[1]), "o", &RefPatterns::all())).is_ok() {
            assert_eq!(database.get_ref("remotes/o/main"), Some(PUSHED.commits[1]));
        }
    }
});
