//! Which domain is meant, and looking it up.

use uuid::Uuid;

use super::Libvirt;
use crate::connection::{CallOptions, deadline};
use crate::error::{Error, Phase};
use crate::objects::Domain;
use crate::protocol::remote::procedure::{DomainLookupByName, DomainLookupByUuid};
use crate::protocol::remote::{DomainLookupByNameArgs, DomainLookupByUuidArgs};

/// Which domain is meant: by name, or by UUID.
///
/// Text in the hyphenated form of a UUID is looked up as one first, then as a name, as virsh does it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DomainKey {
    /// By name, or by UUID where it is one.
    Name(String),
    /// By UUID.
    Uuid(Uuid),
}

impl From<&str> for DomainKey {
    fn from(name: &str) -> Self {
        DomainKey::Name(name.to_owned())
    }
}

impl From<String> for DomainKey {
    fn from(name: String) -> Self {
        DomainKey::Name(name)
    }
}

impl From<&String> for DomainKey {
    fn from(name: &String) -> Self {
        DomainKey::Name(name.clone())
    }
}

impl From<Uuid> for DomainKey {
    fn from(uuid: Uuid) -> Self {
        DomainKey::Uuid(uuid)
    }
}

impl From<&Domain> for DomainKey {
    fn from(domain: &Domain) -> Self {
        DomainKey::Uuid(domain.uuid)
    }
}

impl Libvirt {
    /// Looks a domain up, within `Config::lookup_timeout`.
    pub(crate) async fn lookup(&self, key: &DomainKey) -> Result<Domain, Error> {
        let options = self.options_until(Phase::Lookup, deadline(self.config.lookup_within()));
        let name = match key {
            DomainKey::Uuid(uuid) => return self.lookup_uuid(*uuid, options).await,
            DomainKey::Name(name) => name,
        };
        if let Some(uuid) = hyphenated(name) {
            match self.lookup_uuid(uuid, options).await {
                Err(error) if error.is_not_found() => {}
                found_or_failed => return found_or_failed,
            }
        }
        let args = DomainLookupByNameArgs { name: name.clone() };
        Ok(self
            .client
            .call::<DomainLookupByName>(&args, options)
            .await?
            .dom)
    }

    async fn lookup_uuid(&self, uuid: Uuid, options: CallOptions<'_>) -> Result<Domain, Error> {
        let args = DomainLookupByUuidArgs { uuid };
        Ok(self
            .client
            .call::<DomainLookupByUuid>(&args, options)
            .await?
            .dom)
    }
}

/// The UUID that `name` spells, in the one form that libvirt prints.
pub(crate) fn hyphenated(name: &str) -> Option<Uuid> {
    (name.len() == 36)
        .then(|| Uuid::try_parse(name).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_taken_for_a_uuid() {
        assert!(hyphenated("c7a5fdbd-edaf-9455-926a-d65c16db1809").is_some());
        for name in [
            "stage-lb-1",
            "c7a5fdbdedaf9455926ad65c16db1809",
            "{c7a5fdbd-edaf-9455-926a-d65c16db180}",
        ] {
            assert_eq!(hyphenated(name), None, "{name}");
        }
    }
}
