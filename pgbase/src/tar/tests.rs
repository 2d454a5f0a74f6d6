use super::*;
use proptest::prelude::*;

/// A file's header and padded data.
fn file(name: &str, data: &[u8]) -> Vec<u8> {
    let mut member = encode_header(name.as_bytes(), b'0', data.len() as u64, b"").to_vec();
    member.extend_from_slice(data);
    member.resize(member.len().next_multiple_of(BLOCK_BYTES), 0);
    member
}

fn member(name: &str, type_flag: u8, bytes: u64, link: &str) -> Vec<u8> {
    encode_header(name.as_bytes(), type_flag, bytes, link.as_bytes()).to_vec()
}

/// Feeds `archive` in pieces of `piece` bytes; entries with their contents, or the error.
fn read(archive: &[u8], trailer: Trailer, piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut parser = TarParser::new(trailer);
    let mut entries: Vec<(Entry, Vec<u8>)> = Vec::new();
    for chunk in archive.chunks(piece) {
        let mut input = Bytes::copy_from_slice(chunk);
        while let Some(event) = parser.next(&mut input)? {
            match event {
                Event::Entry(entry) => entries.push((entry, Vec::new())),
                Event::Data(data) => entries.last_mut().unwrap().1.extend_from_slice(&data),
                Event::EndOfFile => {}
            }
        }
        assert!(input.is_empty());
    }
    parser.finish()?;
    Ok(entries)
}

#[track_caller]
fn refused(archive: &[u8]) -> TarError {
    let whole = read(archive, Trailer::Optional, archive.len().max(1)).unwrap_err();
    assert_eq!(read(archive, Trailer::Optional, 7).unwrap_err(), whole, "independent of the pieces");
    whole
}

fn names_refused(name: &str) -> NameError {
    match refused(&member(name, b'0', 0, "")) {
        TarError::Name(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_files_directories_and_tablespace_links() {
    let mut archive = file("backup_label", b"START WAL LOCATION");
    archive.extend(member("pg_tblspc/", b'5', 0, ""));
    archive.extend(member("pg_tblspc/16385/", b'2', 0, "/srv/ts1"));
    archive.extend(member("./pg_wal/archive_status/", b'5', 0, ""));
    archive.extend(file("empty", b""));
    archive.extend(file("base/1/1259", &[7; 1024]));
    for piece in [1, 511, 512, 513, 1 << 20] {
        let entries = read(&archive, Trailer::Optional, piece).unwrap();
        let names: Vec<_> = entries.iter().map(|(entry, _)| entry.name.to_string()).collect();
        let expected =
            ["backup_label", "pg_tblspc", "pg_tblspc/16385", "pg_wal/archive_status", "empty", "base/1/1259"];
        assert_eq!(names, expected);
        assert_eq!(entries[0].1, b"START WAL LOCATION");
        assert_eq!(entries[2].0.kind, EntryKind::TablespaceLink { oid: 16385, target: b"/srv/ts1".to_vec() });
        assert_eq!(entries[5].1, [7; 1024]);
    }
}

#[test]
fn the_end_differs_between_server_versions() {
    let member = file("a", b"x");
    let terminated = [member.clone(), vec![0; 1024]].concat();
    assert!(read(&member, Trailer::Optional, 100).is_ok());
    assert!(read(&terminated, Trailer::Optional, 100).is_ok());
    assert!(read(&terminated, Trailer::Required, 100).is_ok());
    let truncated = Err(TarError::Truncated { place: TruncatedAt::Trailer });
    assert_eq!(read(&member, Trailer::Required, 100).map(|_| ()), truncated);
    assert_eq!(read(&terminated[..1536], Trailer::Required, 100).map(|_| ()), truncated);
    assert_eq!(read(b"", Trailer::Required, 100).map(|_| ()), truncated);
}

#[test]
fn absolute_paths_are_refused() {
    assert_eq!(names_refused("/etc/cron.d/x"), NameError::Absolute { name: "/etc/cron.d/x".into() });
}

#[test]
fn paths_that_climb_are_refused() {
    for name in ["..", "../x", "base/../../x", "base/..", "./../x"] {
        assert_eq!(names_refused(name), NameError::Parent { name: name.into() });
    }
}

#[test]
fn odd_components_are_refused() {
    for name in ["base//1", "base/./1", "././x", "dir/", "."] {
        assert_eq!(names_refused(name), NameError::Malformed { name: name.into() });
    }
    assert_eq!(names_refused(""), NameError::Empty);
    assert_eq!(names_refused("./"), NameError::Empty);
}

#[test]
fn huge_names_are_refused() {
    assert!(read(&member(&"n".repeat(99), b'0', 0, ""), Trailer::Optional, 512).is_ok());
    assert!(matches!(names_refused(&"n".repeat(100)), NameError::TooLong { .. }));
    let mut header = encode_header(b"x", b'0', 0, b"");
    header[345..348].copy_from_slice(b"etc");
    reseal(&mut header);
    assert!(matches!(refused(&header), TarError::Name(NameError::Prefixed { .. })));
}

#[test]
fn links_other_than_tablespaces_are_refused() {
    for name in
        ["pg_wal", "x", "pg_tblspc/x", "pg_tblspc/0", "pg_tblspc/01", "pg_tblspc/1/2", "base/pg_tblspc/1"]
    {
        assert!(matches!(refused(&member(name, b'2', 0, "/etc")), TarError::Link { .. }), "{name}");
    }
    assert!(matches!(refused(&member("pg_tblspc/4294967296", b'2', 0, "/etc")), TarError::Link { .. }));
}

#[test]
fn other_kinds_are_refused() {
    for type_flag in *b"1346789xgLKS" {
        let kind = TarError::Kind { name: EntryName::file(b"x").unwrap(), type_flag: char::from(type_flag) };
        assert_eq!(refused(&member("x", type_flag, 0, "")), kind);
    }
}

#[test]
fn huge_sizes_are_refused() {
    assert!(matches!(refused(&member("x", b'0', MAX_FILE_BYTES + 1, "")), TarError::TooLarge { .. }));
    assert!(matches!(refused(&member("x", b'0', u64::MAX, "")), TarError::TooLarge { .. }));
    let mut header = encode_header(b"x", b'0', 0, b"");
    header[124..136].copy_from_slice(b"\x80\x01\0\0\0\0\0\0\0\0\0\0");
    reseal(&mut header);
    assert!(matches!(refused(&header), TarError::Number { field: "size", .. }), "beyond 64 bits");
}

#[test]
fn sizes_above_8_gib_are_read() {
    let entry = parse_header(&encode_header(b"x", b'0', 9 << 30, b"")).unwrap();
    assert_eq!(entry.kind, EntryKind::File { bytes: 9 << 30 });
}

#[test]
fn malformed_numbers_are_refused() {
    for field in [
        &b"            "[..],
        b"00000000008 ",
        b"-0000000001 ",
        b"0000 000000 ",
        b"\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
    ] {
        let mut header = encode_header(b"x", b'0', 0, b"");
        header[124..136].copy_from_slice(field);
        reseal(&mut header);
        assert!(matches!(refused(&header), TarError::Number { field: "size", .. }), "{field:?}");
    }
}

#[test]
fn directories_and_links_have_no_data() {
    assert!(matches!(refused(&member("d", b'5', 1, "")), TarError::Unsized { bytes: 1, .. }));
    assert!(matches!(refused(&member("pg_tblspc/1", b'2', 1, "/x")), TarError::Unsized { .. }));
}

#[test]
fn damaged_headers_are_refused() {
    let mut header = encode_header(b"x", b'0', 0, b"");
    header[3] = 1;
    assert!(matches!(refused(&header), TarError::Checksum { .. }));
    let mut header = encode_header(b"x", b'0', 0, b"");
    header[257] = b'X';
    reseal(&mut header);
    assert!(matches!(refused(&header), TarError::Magic { .. }));
}

#[test]
fn truncated_archives_are_refused() {
    let archive = [file("a", &[1; 700]), file("b", b"x")].concat();
    for length in 1..archive.len() {
        let result = read(&archive[..length], Trailer::Optional, 100);
        let whole = length == 1536;
        assert_eq!(result.is_ok(), whole, "{length} bytes");
    }
    let error = read(&archive[..612], Trailer::Optional, 100).unwrap_err();
    assert_eq!(error.to_string(), "the archive is truncated: it ends within 'a', 600 bytes early");
}

#[test]
fn nothing_may_follow_the_end() {
    let ended = [file("a", b"x"), vec![0; 1024]].concat();
    assert_eq!(refused(&[ended, vec![0; 1]].concat()), TarError::DataAfterEnd);
    let half = [vec![0; 512], file("a", b"x")].concat();
    assert_eq!(refused(&half), TarError::DataAfterEnd);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_never_panic(bytes: Vec<u8>, piece in 1_usize..2000) {
        let _ = read(&bytes, Trailer::Required, piece);
    }

    #[test]
    fn mutated_headers_never_yield_an_unsafe_name(at in 0_usize..512, byte: u8, reseal_it: bool) {
        let mut header = encode_header(b"base/1/2", b'0', 0, b"");
        header[at] = byte;
        if reseal_it {
            reseal(&mut header);
        }
        if let Ok(entries) = read(&header, Trailer::Optional, 512) {
            for (entry, _) in entries {
                let name = entry.name.as_bytes();
                prop_assert!(!name.starts_with(b"/"));
                prop_assert!(name.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
            }
        }
    }

    #[test]
    fn files_come_out_as_they_went_in(
        files in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..1500), 1_u32..), 0..6),
        piece in 1_usize..3000,
    ) {
        let archive: Vec<u8> = files.iter().flat_map(|(data, oid)| file(&format!("base/1/{oid}"), data)).collect();
        let entries = read(&archive, Trailer::Optional, piece).unwrap();
        prop_assert_eq!(entries.len(), files.len());
        for ((entry, data), (expected, oid)) in entries.iter().zip(&files) {
            prop_assert_eq!(entry.name.to_string(), format!("base/1/{oid}"));
            prop_assert_eq!(data, expected);
        }
    }
}
