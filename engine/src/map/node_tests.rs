#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn leaf(rows: &[(&[u8], &[u8])]) -> Chunk {
    let mut encoder = Encoder::new(0);
    rows.iter().for_each(|(key, value)| encoder.push_value(key, Stored { tag: Tag::Inline, bytes: value }));
    encoder.finish()
}

#[test]
fn golden_leaf_bytes() {
    let chunk = leaf(&[(b"key1", b"a"), (b"key2", b"bb")]);
    let mut expected = vec![2, 0, 3, 0, 0, 2, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
    expected.extend_from_slice(b"key12");
    expected.extend_from_slice(&[1, 0, 3, 0]);
    expected.extend_from_slice(b"abb");
    assert_eq!(chunk.body(), expected);
}

#[test]
fn golden_inner_bytes() {
    let mut encoder = Encoder::new(1);
    let child = |n: u8| Child { hash: Hash::from_bytes([n; 32]), rows: u64::from(n), bytes: 256 };
    encoder.push_child(b"m", child(1));
    encoder.push_child(b"zz", child(2));
    let chunk = encoder.finish();
    let mut expected = vec![2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0];
    expected.extend_from_slice(b"mzz");
    expected.extend_from_slice(&[1; 32]);
    expected.extend_from_slice(&[2; 32]);
    for number in [1u64, 2, 256, 256] {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    assert_eq!(chunk.body(), expected);
    assert_eq!(chunk.children().collect::<Vec<_>>(), [child(1).hash, child(2).hash]);
}

#[test]
fn links_in_a_leaf_are_listed_as_children() {
    let mut encoder = Encoder::new(0);
    let links = [[7u8; 32], [8; 32]].concat();
    encoder.push_value(b"a", Stored { tag: Tag::Inline, bytes: b"plain" });
    encoder.push_value(b"b", Stored { tag: Tag::Links, bytes: &links });
    let chunk = encoder.finish();
    let children: Vec<Hash> = chunk.children().collect();
    assert_eq!(children, [Hash::from_bytes([7; 32]), Hash::from_bytes([8; 32])]);
    Node::check(&chunk).unwrap();
}

#[test]
fn a_chunk_that_is_not_canonical_is_refused() {
    let good = leaf(&[(b"key1", b"a"), (b"key2", b"bb")]);
    Node::check(&good).unwrap();
    // The same rows without the shared prefix: 16 bytes of header, keys of 4 bytes each.
    let mut body = vec![2, 0, 0, 0, 0, 2, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0];
    body.extend_from_slice(b"key1key2\x01\0\x03\0abb");
    let long_way = Chunk::build(MAP, 0, &body, None, &[], 0);
    assert_eq!(Node::parse(long_way.clone()).unwrap().key(1), b"key2");
    assert!(Node::check(&long_way).is_err());
    // Keys out of order.
    assert!(Node::check(&leaf(&[(b"b", b"1"), (b"a", b"2")])).is_err());
}

proptest! {
    #[test]
    fn a_node_gives_back_what_was_put_in(
        rows in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 0..12), prop::collection::vec(any::<u8>(), 0..300), 0..60),
        probe in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let entries: Vec<_> = rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
        let chunk = leaf(&entries);
        Node::check(&chunk).unwrap();
        let node = Node::parse(chunk).unwrap();
        prop_assert_eq!(node.len(), rows.len());
        for (i, (key, value)) in entries.iter().enumerate() {
            prop_assert_eq!(node.key(i), *key);
            prop_assert_eq!(node.value(i).bytes, *value);
            prop_assert_eq!(node.lower_bound(key), i);
        }
        prop_assert_eq!(node.lower_bound(&probe), rows.range(..probe.clone()).count());
        let bytes: usize = rows.iter().map(|(k, v)| k.len() + v.len()).sum();
        prop_assert_eq!(node.bytes(), bytes as u64);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        body in prop::collection::vec(any::<u8>(), 0..400), level in 0u8..3, i in 0usize..8,
    ) {
        let chunk = Chunk::build(MAP, level, &body, None, &[], 0);
        let _ = Node::check(&chunk);
        if let Ok(node) = Node::parse(chunk) {
            if i < node.len() {
                node.key(i);
                if node.is_leaf() { let _ = node.value(i); } else { node.child(i); }
            }
            node.lower_bound(&body);
            let _ = (node.rows(), node.bytes());
        }
    }
}
