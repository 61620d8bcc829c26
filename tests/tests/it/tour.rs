//! The tour: the whole story on real data, checked step by step.

use pleach_tests::Sandbox;

#[test]
fn the_tour_ends_well() {
    let run = Sandbox::new().run(&["tour"]);
    assert_eq!(run.status, 0, "{}\n{}", run.stdout, run.stderr);
}
