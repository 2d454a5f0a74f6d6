//! Maps of names are kept, bounded, and never believed when damaged.

use pgwal::RelFile;
use pgwal::names::Name;

use super::*;
use crate::Layout;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn map(lsn: u64) -> NameMap {
    let place = |offset| RowPlace { block: 3, offset };
    let relation = ClassRow {
        oid: 16400,
        name: name("o'dd \"n\u{e4}me"),
        namespace: 2200,
        file: 16410,
        tablespace: 0,
        kind: b'r',
        persistence: b'p',
    };
    NameMap {
        at: "2026-11-26T01:02:03.5Z".parse().unwrap(),
        lsn: Lsn::from_u64(lsn),
        timeline: TimelineId::FIRST,
        version: WalVersion::V15,
        system_id: u64::MAX,
        database_file: 1262,
        databases: vec![DatabaseNames {
            place: place(1),
            row: DatabaseRow { oid: 5, name: name("postgres"), encoding: 6 },
            files: (1259, 16500),
            schemas: vec![(place(1), NamespaceRow { oid: 2200, name: name("public") })],
            relations: vec![(place(7), relation)],
        }],
    }
}

fn catalog(home: &std::path::Path) -> Catalog {
    Catalog::new(Layout::new("pg", home, home))
}

#[test]
fn a_map_is_read_as_it_was_kept_and_gives_its_names() {
    let home = tempfile::tempdir().unwrap();
    let catalog = catalog(home.path());
    assert_eq!(catalog.name_maps().unwrap(), []);
    catalog.keep_name_map(&map(0x300_0028)).unwrap();
    let kept = catalog.name_maps().unwrap();
    let read = catalog.name_map(&kept[0]).unwrap().unwrap();
    assert_eq!(read, map(0x300_0028));
    let names = read.names();
    let file = RelFile { tablespace: 1663, database: 5, number: 16410 };
    assert_eq!(names.relation_in(file).unwrap().name, name("o'dd \"n\u{e4}me"));
    assert_eq!(names.schema(5, 2200), Some(&name("public")));
    let moved = RelFile { tablespace: 1663, database: 5, number: 16500 };
    assert_eq!(names.catalog_in(moved), Some(NamingCatalog::Namespace));
}

#[test]
fn any_changed_or_missing_byte_makes_it_no_map() {
    let bytes = format::to_bytes(&map(1)).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        // Two bytes are of no meaning, but the checksum covers them.
        assert_eq!(format::from_bytes(&changed), None, "byte {at}");
        assert_eq!(format::from_bytes(&bytes[..at]), None, "cut at {at}");
    }
    assert!(format::from_bytes(&bytes).is_some());
}

#[test]
fn of_too_many_those_go_that_are_nearest_to_others() {
    let home = tempfile::tempdir().unwrap();
    let catalog = catalog(home.path());
    let lsns: Vec<u64> = (1..=MAPS_MAX as u64).map(|number| number << 24).collect();
    for lsn in lsns.iter().chain([&(5 << 24 | 1)]) {
        catalog.keep_name_map(&map(*lsn)).unwrap();
    }
    let kept: Vec<u64> = catalog.name_maps().unwrap().iter().map(|map| map.lsn.as_u64()).collect();
    assert_eq!(kept.len(), MAPS_MAX);
    assert!(kept.contains(&(1 << 24)) && kept.contains(&((MAPS_MAX as u64) << 24)));
    assert!(!(kept.contains(&(5 << 24)) && kept.contains(&(5 << 24 | 1))), "one of the two that are close");
}

#[test]
fn a_crash_at_any_step_leaves_whole_maps_and_the_next_one_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let catalog = catalog(home.path());
    // The last one is one too many, so that one is removed, too.
    let lsns: Vec<u64> = (1..=MAPS_MAX as u64 + 1).map(|number| number << 24).collect();
    let directory = catalog.name_map_directory();
    for step in 0.. {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for lsn in &lsns[..MAPS_MAX] {
            let name = format!("00000001-{lsn:016X}{SUFFIX}");
            fs::write(directory.join(name), format::to_bytes(&map(*lsn)).unwrap()).unwrap();
        }
        let faults = barkeep_transport::faults::Faults::crash_at(home.path(), step);
        let outcome = catalog.keep_name_map(&map(lsns[MAPS_MAX]));
        let is_done = faults.finish().len() <= step;
        assert_eq!(outcome.is_ok(), is_done, "step {step}: {outcome:?}");
        let kept = catalog.name_maps().unwrap();
        assert!((MAPS_MAX..=MAPS_MAX + 1).contains(&kept.len()), "step {step}: {}", kept.len());
        for kept in &kept {
            assert_eq!(catalog.name_map(kept).unwrap().map(|map| map.lsn), Some(kept.lsn), "step {step}");
        }
        catalog.keep_name_map(&map(lsns[MAPS_MAX])).unwrap();
        let kept = catalog.name_maps().unwrap();
        assert_eq!((kept.len(), kept.last().map(|map| map.lsn.as_u64())), (MAPS_MAX, Some(lsns[MAPS_MAX])));
        if is_done {
            return;
        }
    }
}
