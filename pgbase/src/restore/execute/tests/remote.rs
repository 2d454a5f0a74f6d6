//! Restores through a host.

use barkeep_transport::faults::FaultyHost;
use barkeep_transport::host::LocalHost;

use super::*;

const MIB: usize = 1 << 20;

impl Stage {
    /// Restores as to another machine, whose agent has made the directories; how many steps that took.
    fn restore_through(&self, lost_at: usize) -> (Result<RestoreReport, RestoreError>, usize) {
        let staging = tempfile::tempdir().unwrap();
        for place in ["new", "new-fast"] {
            let _ = fs::remove_dir_all(self.path(place));
        }
        let plan = self.plan(None);
        for tree in &plan.trees {
            fs::create_dir(&tree.to).unwrap();
        }
        let host = FaultyHost::lost_at(LocalHost::default(), lost_at);
        let outcome = execute_remote(&host, &plan, 2, staging.path(), &());
        (outcome, host.steps())
    }
}

#[test]
fn a_host_that_is_lost_at_any_step_leaves_nothing_that_starts() {
    let stage = Stage::new();
    // Several pieces, of which one is zero and the last is short; and exactly one piece.
    let mut large: Vec<u8> = (0..5 * MIB + 77).map(|at| (at % 251) as u8).collect();
    large[2 * MIB..3 * MIB].fill(0);
    stage.write("data/base/5/114", &large);
    stage.write("data/base/5/115", &large[..MIB]);
    let (whole, steps) = stage.restore_through(usize::MAX);
    whole.unwrap();
    assert!(fs::read(stage.path("new/base/5/114")).unwrap() == large);
    assert!(fs::read(stage.path("new/base/5/115")).unwrap() == large[..MIB]);
    assert_eq!(stage.read("new/global/pg_control"), "control");
    for lost_at in 0..steps {
        let (outcome, _) = stage.restore_through(lost_at);
        assert!(outcome.is_err(), "lost at {lost_at} of {steps}");
        // The control file gets its name with the last of the changes.
        assert!(
            lost_at + 4 >= steps || !stage.path("new/global/pg_control").exists(),
            "lost at {lost_at} of {steps}"
        );
    }
}
