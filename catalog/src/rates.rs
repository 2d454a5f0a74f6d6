//! How fast this home restores, as measured: what plans are estimated from. In `.barkeep/rates.json`; ours, expendable.

use barkeep_transport::durable;
use serde::{Deserialize, Serialize};

use crate::Catalog;
use crate::store::{CatalogError, read_bounded};

/// The version of the file's format.
const VERSION: u32 = 1;
/// Largest such file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How much a new measurement counts against all earlier ones.
const WEIGHT: f64 = 0.3;
/// Shorter measurements than this say more about starting and ending than about the rate, in seconds.
const SECONDS_MIN: f64 = 0.2;

/// Rates of earlier restores and drills, in bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Files copied to their destination and brought to stable storage.
    pub copy: Option<f64>,
    /// WAL replayed by a server.
    pub replay: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    #[serde(flatten)]
    rates: Rates,
}

/// Takes a measurement into account.
pub fn blend(known: Option<f64>, bytes: u64, seconds: f64) -> Option<f64> {
    if seconds < SECONDS_MIN || bytes == 0 {
        return known;
    }
    let measured = bytes as f64 / seconds;
    Some(known.map_or(measured, |known| known * (1.0 - WEIGHT) + measured * WEIGHT))
}

impl Catalog {
    /// The rates known; none at first, or when what is there can't be understood.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn rates(&self) -> Result<Rates, CatalogError> {
        let path = self.layout().private().join("rates.json");
        let Some(text) = read_bounded(&path, FILE_BYTES_MAX)? else { return Ok(Rates::default()) };
        let known = serde_json::from_slice::<Text>(&text).ok().filter(|text| text.version == VERSION);
        let sound = |rate: Option<f64>| rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        let rates = known.map(|text| text.rates).unwrap_or_default();
        Ok(Rates { copy: sound(rates.copy), replay: sound(rates.replay) })
    }

    /// Records the rates.
    ///
    /// # Errors
    /// When storage fails.
    pub fn record_rates(&self, rates: Rates) -> Result<(), CatalogError> {
        durable::create_dir_all(&self.layout().private())?;
        let text = serde_json::to_vec(&Text { version: VERSION, rates }).unwrap_or_default();
        Ok(durable::write(&self.layout().private().join("rates.json"), &text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[test]
    fn rates_are_kept_and_follow_what_is_measured() {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        assert_eq!(catalog.rates().unwrap(), Rates::default());
        let copy = blend(None, 1000, 2.0);
        assert_eq!(copy, Some(500.0));
        assert_eq!(blend(copy, 1, 0.01), copy, "too short to say anything");
        let rates = Rates { copy: blend(copy, 2000, 2.0), replay: None };
        assert_eq!(rates.copy, Some(650.0));
        catalog.record_rates(rates).unwrap();
        assert_eq!(catalog.rates().unwrap(), rates);
        std::fs::write(catalog.layout().private().join("rates.json"), "{\"version\":1,\"copy\":-1}").unwrap();
        assert_eq!(catalog.rates().unwrap(), Rates::default());
    }
}
