//! Records of a copy beside those of the cluster that it was made of.

use std::collections::BTreeMap;

use bytes::Bytes;
use saola_client::drill::WORK;
use saola_client::{At, Client, Error, Version};
use sha2::{Digest, Sha256};

use crate::drill::report::Compared;

/// So many records of each collection are read.
const RECORDS: u32 = 100;

/// What makes a record the same: generation, revision, chain, and SHA-256 of its value.
type Print = (u64, u64, Bytes, [u8; 32]);
/// The first records of each collection, by id.
pub type Prints = BTreeMap<String, BTreeMap<Bytes, Print>>;

fn print(version: Version) -> (Bytes, Print) {
    let value = Sha256::digest(&version.value).into();
    (version.id, (version.generation, version.revision, version.chain, value))
}

/// The first records of every collection at a revision; those of drills, which write all the time, are left out, and so are
/// collections of which the cluster does not keep that revision any more.
///
/// # Errors
/// They cannot be read.
pub async fn of_cluster(cluster: &Client, revision: u64) -> Result<Prints, Error> {
    let mut all = Prints::new();
    for collection in cluster.collections().await?.value {
        if collection.name == WORK {
            continue;
        }
        let page = cluster.list(&collection.name).at(At::Revision(revision)).page_size(RECORDS).send().await;
        match page {
            Ok(page) => drop(all.insert(collection.name, page.value.versions.into_iter().map(print).collect())),
            Err(error) if ["REVISION_GONE", "UNKNOWN_COLLECTION"].contains(&error.reason()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The same records as the copy has them now: nobody else writes there.
///
/// # Errors
/// They cannot be read.
pub async fn of_copy(copy: &Client, expected: &Prints) -> Result<Prints, Error> {
    let mut all = Prints::new();
    for (name, first) in expected {
        match copy.list(name).page_size(RECORDS).send().await {
            Ok(page) => drop(all.insert(name.clone(), page.value.versions.into_iter().map(print).collect())),
            // It was made after the copy, and so the cluster had nothing of it at the copy's revision either.
            Err(error) if error.reason() == "UNKNOWN_COLLECTION" && first.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Counts what is not the same.
pub fn compare(expected: &Prints, found: &Prints) -> Compared {
    let mut compared = Compared::default();
    for (name, expected) in expected {
        let none = BTreeMap::new();
        let found = found.get(name).unwrap_or(&none);
        let missing = expected.keys().filter(|id| !found.contains_key(*id)).count();
        let other = found.iter().filter(|(id, print)| expected.get(*id) != Some(print)).count();
        compared.collections += 1;
        compared.records += found.len() as u64;
        compared.different += (missing + other) as u64;
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prints(records: &[(&'static str, u64)]) -> Prints {
        let one = |(id, generation): &(&'static str, u64)| {
            (Bytes::from_static(id.as_bytes()), (*generation, 1, Bytes::new(), [0; 32]))
        };
        Prints::from([("agency".to_owned(), records.iter().map(one).collect())])
    }

    #[test]
    fn what_is_missing_and_what_is_other_counts_once_each() {
        let counts = |found: &Prints| {
            let it = compare(&prints(&[("a", 1), ("b", 1), ("c", 1)]), found);
            (it.collections, it.records, it.different)
        };
        assert_eq!(counts(&prints(&[("a", 1), ("b", 1), ("c", 1)])), (1, 3, 0));
        assert_eq!(counts(&prints(&[("b", 1), ("c", 1)])), (1, 2, 1), "the first is missing");
        assert_eq!(counts(&prints(&[("a", 1), ("b", 2), ("c", 1), ("d", 1)])), (1, 4, 2), "one is other, one too many");
        assert_eq!(counts(&Prints::new()), (1, 0, 3));
    }
}
