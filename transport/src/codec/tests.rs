use super::*;
use proptest::prelude::*;

const LEVELS: [Level; 6] =
    [Level::Low, Level::Medium, Level::High, Level::Number(-1000), Level::Number(1), Level::Number(1000)];

fn compress(compression: Compression, level: Level, bytes: &[u8]) -> Vec<u8> {
    let mut writer = compression.writer(Vec::new(), level).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn decompress(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    compression.reader(bytes)?.read_to_end(&mut plain)?;
    Ok(plain)
}

/// Bytes that neither compress to nothing nor not at all.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|at| if at % 7 < 4 { b'w' } else { step() & 0x1f }).collect()
}

#[test]
fn every_format_reads_back_what_it_wrote_at_every_level() {
    for compression in Compression::ALL {
        for level in LEVELS {
            for length in [0, 1, 70_000, 1 << 20] {
                let plain = sample(length);
                let packed = compress(compression, level, &plain);
                assert_eq!(
                    decompress(compression, &packed).unwrap(),
                    plain,
                    "{compression} {level:?} {length}"
                );
                if length > 0 {
                    assert_eq!(Compression::detect(&packed), compression);
                }
            }
        }
    }
}

#[test]
fn members_and_frames_one_after_another_are_one_file() {
    for compression in Compression::ALL {
        let mut packed = compress(compression, Level::Medium, &sample(50_000));
        packed.extend(compress(compression, Level::Medium, b"and more"));
        let mut expected = sample(50_000);
        expected.extend_from_slice(b"and more");
        assert_eq!(decompress(compression, &packed).unwrap(), expected, "{compression}");
    }
}

#[test]
fn a_truncated_file_is_an_error_and_never_a_short_success() {
    let plain = sample(300_000);
    for compression in Compression::ALL {
        // The snappy framing format has no end mark, so a cut between two chunks can't be seen there.
        if matches!(compression, Compression::None | Compression::Snappy) {
            continue;
        }
        let packed = compress(compression, Level::Medium, &plain);
        for cut in [packed.len() - 1, packed.len() - 5, packed.len() / 2, 12] {
            assert!(decompress(compression, &packed[..cut]).is_err(), "{compression} cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_in_every_format_with_a_checksum() {
    let plain = sample(300_000);
    for compression in Compression::ALL {
        if compression == Compression::None {
            continue;
        }
        let mut packed = compress(compression, Level::Medium, &plain);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x10;
        assert!(decompress(compression, &packed).is_err(), "{compression}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let plain = vec![0_u8; 1 << 20];
    for compression in Compression::ALL {
        let packed = compress(compression, Level::Medium, &plain);
        let read = |limit| {
            let mut found = Vec::new();
            Bounded::new(compression.reader(packed.as_slice()).unwrap(), limit).read_to_end(&mut found)
        };
        assert_eq!(read(1 << 20).unwrap(), 1 << 20, "{compression}");
        assert!(read((1 << 20) - 1).unwrap_err().to_string().contains("more than 1048575 bytes"));
    }
}

#[test]
fn configuration_names_are_barmans() {
    for (name, compression) in [
        ("gzip", Compression::Gzip),
        ("pigz", Compression::Gzip),
        ("pygzip", Compression::Gzip),
        ("bzip2", Compression::Bzip2),
        ("pybzip2", Compression::Bzip2),
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
        ("lz4", Compression::Lz4),
        ("snappy", Compression::Snappy),
        ("none", Compression::None),
    ] {
        assert_eq!(Compression::from_name(name), Some(compression));
    }
    assert_eq!(Compression::from_name("custom"), None);
    for compression in Compression::ALL {
        assert_eq!(Compression::from_name(compression.name()), Some(compression));
    }
}

#[test]
fn levels_are_barmans_and_clamped() {
    let numbers = |compression: Compression| {
        [Level::Low, Level::Medium, Level::High, Level::Number(-99), Level::Number(99)]
            .map(|level| compression.level_number(level))
    };
    assert_eq!(numbers(Compression::Gzip), [1, 6, 9, 1, 9]);
    assert_eq!(numbers(Compression::Bzip2), [1, 5, 9, 1, 9]);
    assert_eq!(numbers(Compression::Xz), [1, 3, 5, 1, 9]);
    assert_eq!(numbers(Compression::Zstd), [1, 4, 9, -22, 22]);
    assert_eq!(numbers(Compression::Lz4), [0, 6, 10, 0, 16]);
    assert_eq!(Level::from_name("medium"), Some(Level::Medium));
    assert_eq!(Level::from_name("-3"), Some(Level::Number(-3)));
    assert_eq!(Level::from_name("fast"), None);
}

#[test]
fn sniffing_loses_no_byte() {
    for compression in Compression::ALL {
        let packed = compress(compression, Level::Low, b"some words");
        let (found, source) = sniff(packed.as_slice()).unwrap();
        assert_eq!(found, compression);
        let mut plain = Vec::new();
        found.reader(source).unwrap().read_to_end(&mut plain).unwrap();
        assert_eq!(plain, b"some words");
    }
    assert_eq!(sniff(io::empty()).unwrap().0, Compression::None);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>, which in 0..Compression::ALL.len()) {
        let compression = Compression::ALL[which];
        let mut hostile = compression.magic().to_vec();
        hostile.extend(bytes);
        let mut sink = Vec::new();
        let _ = Bounded::new(compression.reader(hostile.as_slice()).unwrap(), 1 << 20).read_to_end(&mut sink);
    }

    #[test]
    fn any_bytes_round_trip(bytes: Vec<u8>, which in 0..Compression::ALL.len()) {
        let compression = Compression::ALL[which];
        prop_assert_eq!(decompress(compression, &compress(compression, Level::Low, &bytes)).unwrap(), bytes);
    }
}
