//! A next version of the extension, to upgrade to.

use crate::cluster::Cluster;

/// Offers the cluster a version `next`, with an upgrade script as it would have one: all functions anew, and a table
/// with a column more.
///
/// # Panics
/// If the script that installs the extension is not as expected.
pub fn offer_next_version(cluster: &Cluster) {
    let installed = cluster.extension_dir().join("repart--0.1.0.sql");
    let install = std::fs::read_to_string(installed).expect("the installed script can be read");
    let functions: Vec<String> = install
        .split(";\n")
        .filter_map(|statement| {
            let at = statement.find("CREATE  FUNCTION")?;
            Some(statement[at..].replace("CREATE  FUNCTION", "CREATE OR REPLACE FUNCTION"))
        })
        .collect();
    assert!(functions.len() > 20, "{} functions", functions.len());
    let script = format!(
        "{};\nALTER TABLE repart.samples ADD COLUMN more int;\n",
        functions.join(";\n")
    );
    let next = cluster.extension_dir().join("repart--0.1.0--next.sql");
    std::fs::write(next, script).expect("the upgrade script can be written");
}
