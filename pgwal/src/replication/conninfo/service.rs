//! Service files (`parseServiceInfo` in `fe-connect.c`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{ConnInfoError, Environment, keys};

/// Where distributions put the system-wide file; `PGSYSCONFDIR` overrides it.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/postgresql-common", "/etc"];
const SYSTEM_FILE: &str = "pg_service.conf";
/// A service file longer than this is not one, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Adds what the service says, if one is named by `service` or `PGSERVICE`, under what is there already.
pub(super) fn fill(
    values: &mut BTreeMap<&'static str, String>,
    home: Option<&Path>,
    environment: Environment<'_>,
) -> Result<(), ConnInfoError> {
    let given = |key: &str, variable: &'static str| match values.get(key) {
        Some(value) => Ok(Some(value.clone())),
        None => environment(variable)
            .map(|value| value.into_string().map_err(|_| ConnInfoError::VariableNotUtf8 { variable }))
            .transpose(),
    };
    let Some(name) = given("service", "PGSERVICE")?.filter(|name| !name.is_empty()) else { return Ok(()) };
    let named = given("servicefile", "PGSERVICEFILE")?.filter(|file| !file.is_empty()).map(PathBuf::from);

    let mut files = Vec::new();
    // A file that was named must exist; the defaults need not.
    let user_file_is_named = named.is_some();
    files.extend(named.or_else(|| home.map(|home| home.join(".pg_service.conf"))));
    match environment("PGSYSCONFDIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => files.push(Path::new(&directory).join(SYSTEM_FILE)),
        None => files.extend(SYSTEM_DIRECTORIES.iter().map(|dir| Path::new(dir).join(SYSTEM_FILE))),
    }
    for (index, file) in files.iter().enumerate() {
        let text = match read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !(index == 0 && user_file_is_named) => {
                continue;
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(ConnInfoError::ServiceFileUnreadable { file: file.clone(), reason });
            }
        };
        if let Some(pairs) = find(&text, &name, file)? {
            for (key, value) in pairs {
                values.entry(key).or_insert(value);
            }
            return Ok(());
        }
    }
    Err(ConnInfoError::ServiceNotFound { name, files })
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file)?.take(FILE_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The pairs of the first section of that name.
fn find(text: &str, name: &str, file: &Path) -> Result<Option<Vec<(&'static str, String)>>, ConnInfoError> {
    let mut pairs = None::<Vec<(&'static str, String)>>;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if pairs.is_some() {
                break;
            }
            // libpq compares up to the bracket and ignores what follows it.
            let found = section.strip_prefix(name).is_some_and(|rest| rest.starts_with(']'));
            pairs = found.then(Vec::new);
            continue;
        }
        let Some(pairs) = &mut pairs else { continue };
        let fault = |reason: String| ConnInfoError::ServiceFileSyntax {
            file: file.to_owned(),
            line: index + 1,
            reason,
        };
        let Some((key, value)) = line.split_once('=') else {
            return Err(fault("it has no \"=\"".to_owned()));
        };
        match keys::find(key) {
            Some(key) if matches!(key.name, "service" | "servicefile") => {
                return Err(fault(format!("a service cannot name another one by {:?}", key.name)));
            }
            // The first of several wins, unlike in a connection string.
            Some(key) if pairs.iter().all(|(known, _)| *known != key.name) => {
                pairs.push((key.name, value.to_owned()));
            }
            Some(_) => {}
            None => return Err(fault(format!("unknown connection option {key:?}"))),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsString;

    const FILE: &str = "# servers\n\n[other]\nhost=o\n\n[main]\nhost=a\nport = 1\nhost=b\n[main]\nuser=no\n";

    fn filled(
        directory: &Path,
        start: &[(&'static str, &str)],
        variables: &[(&str, &str)],
    ) -> Result<BTreeMap<&'static str, String>, ConnInfoError> {
        let mut values = start.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let environment = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        fill(&mut values, Some(directory), &environment)?;
        Ok(values)
    }

    #[test]
    fn the_service_fills_what_was_not_given() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".pg_service.conf"), "[main]\nhost=a\nport=1\nhost=b\n").unwrap();
        let values = filled(home.path(), &[("service", "main"), ("port", "9")], &[]).unwrap();
        assert_eq!((values["host"].as_str(), values["port"].as_str()), ("a", "9"));
        let values = filled(home.path(), &[], &[("PGSERVICE", "main")]).unwrap();
        assert_eq!(values["host"], "a");
    }

    #[test]
    fn the_system_file_comes_second() {
        let home = tempfile::tempdir().unwrap();
        let system = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".pg_service.conf"), "[a]\nhost=user\n").unwrap();
        std::fs::write(system.path().join("pg_service.conf"), "[a]\nhost=system\n[b]\nhost=system\n")
            .unwrap();
        let variables = [("PGSYSCONFDIR", system.path().to_str().unwrap())];
        assert_eq!(filled(home.path(), &[("service", "a")], &variables).unwrap()["host"], "user");
        assert_eq!(filled(home.path(), &[("service", "b")], &variables).unwrap()["host"], "system");
        assert!(matches!(
            filled(home.path(), &[("service", "c")], &variables),
            Err(ConnInfoError::ServiceNotFound { files, .. }) if files.len() == 2
        ));
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let home = tempfile::tempdir().unwrap();
        let missing = home.path().join("missing");
        let variables = [("PGSERVICEFILE", missing.to_str().unwrap())];
        assert!(matches!(
            filled(home.path(), &[("service", "a")], &variables),
            Err(ConnInfoError::ServiceFileUnreadable { file, .. }) if file == missing
        ));
    }

    #[test]
    fn faults_name_their_line() {
        let fault = |text: &str| match find(text, "a", Path::new("f")) {
            Err(ConnInfoError::ServiceFileSyntax { line, .. }) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault("[a]\nhost\n"), 2);
        assert_eq!(fault("[a]\n\nnonsense=1\n"), 3);
        assert_eq!(fault("[a]\nservice=b\n"), 2);
        // Other sections are not looked at, and a blank before "=" belongs to the key, as in libpq.
        assert_eq!(find("[b]\nnonsense\n[a]\n", "a", Path::new("f")), Ok(Some(vec![])));
        assert!(find(FILE, "main", Path::new("f")).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = find(&text, "a", Path::new("f"));
            let _ = find(&format!("[a]\n{text}"), "a", Path::new("f"));
        }
    }
}
