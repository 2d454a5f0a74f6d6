//! The server's settings that tell how its pages lie in files.

use pgwal::replication::Connection;

use super::TakeBackupError;
use crate::checksum::PageGeometry;

const BLOCK_SIZE: &str = "block_size";
const SEGMENT_SIZE: &str = "segment_size";

/// Asks the server how large its pages and files are.
pub(super) async fn page_geometry(connection: &mut Connection) -> Result<PageGeometry, TakeBackupError> {
    let block = connection.show(BLOCK_SIZE).await?;
    let segment = connection.show(SEGMENT_SIZE).await?;
    let block_bytes: u64 =
        block.parse().map_err(|_| TakeBackupError::Setting { name: BLOCK_SIZE, value: block.clone() })?;
    let unknown = || TakeBackupError::Setting { name: SEGMENT_SIZE, value: segment.clone() };
    let segment_bytes = size_with_unit(&segment).ok_or_else(unknown)?;
    geometry(block_bytes, segment_bytes).ok_or_else(unknown)
}

fn geometry(block_bytes: u64, segment_bytes: u64) -> Option<PageGeometry> {
    let blocks = segment_bytes.checked_div(block_bytes)?;
    PageGeometry::new(usize::try_from(block_bytes).ok()?, u32::try_from(blocks).ok()?)
}

/// A size as `SHOW` prints it: a number and a unit, such as `1GB`.
fn size_with_unit(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[unit..] {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    let number: u64 = text[..unit].parse().ok()?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_settings_give_the_usual_geometry() {
        assert_eq!(geometry(8192, size_with_unit("1GB").unwrap()), Some(PageGeometry::DEFAULT));
    }

    #[test]
    fn sizes_come_with_units() {
        assert_eq!(size_with_unit("64MB"), Some(64 << 20));
        assert_eq!(size_with_unit("512kB"), Some(512 << 10));
        for text in ["", "GB", "1gb", "x", "99999999999TB", "1 GB"] {
            assert_eq!(size_with_unit(text), None, "{text:?}");
        }
        assert_eq!(geometry(0, 1), None);
    }
}
