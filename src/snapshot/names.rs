//! What the log and the metrics call the parts of a snapshot: small ids that stay the same over reloads.

use crate::observe::{
    ApiId, ApiNames, ListenerId, LoginId as LoginName, Names, OperationId, RegisteredNames, Registry,
    UpstreamId,
};
use crate::policy::identify::LoginId;
use crate::snapshot::Snapshot;

/// Ids by the indices of a snapshot. Indices that it does not have are called nothing.
#[derive(Debug, Default)]
pub struct SnapshotNames {
    registered: Option<RegisteredNames>,
    /// By index of the operation in the snapshot.
    operations: Vec<(ApiId, OperationId)>,
}

impl SnapshotNames {
    /// Registers everything that `snapshot` names. Called before any core runs it.
    pub fn register(snapshot: &Snapshot, registry: &mut Registry, now_ms: u64) -> SnapshotNames {
        let of_api =
            |api: usize| snapshot.operations.iter().filter(move |operation| operation.api as usize == api);
        let names = Names {
            listeners: snapshot.listeners.iter().map(|listener| listener.name.to_string()).collect(),
            apis: snapshot
                .apis
                .iter()
                .enumerate()
                .map(|(index, api)| ApiNames {
                    name: api.name.to_string(),
                    operations: of_api(index).map(|operation| operation.name.to_string()).collect(),
                })
                .collect(),
            logins: snapshot.logins.iter().map(|login| login.to_string()).collect(),
            upstreams: snapshot.upstreams.iter().map(|upstream| upstream.name.to_string()).collect(),
        };
        let registered = registry.register(&names, now_ms);
        let mut taken = vec![0usize; snapshot.apis.len()];
        let operations = snapshot
            .operations
            .iter()
            .map(|operation| {
                let api = operation.api as usize;
                let Some(ids) = registered.apis.get(api) else { return Default::default() };
                let place = &mut taken[api];
                let id = ids.operations.get(*place).copied().unwrap_or_default();
                *place += 1;
                (ids.api, id)
            })
            .collect();
        SnapshotNames { registered: Some(registered), operations }
    }

    /// Of an operation and its API.
    pub fn of(&self, _api: u32, operation: u32) -> (ApiId, OperationId) {
        self.operations.get(operation as usize).copied().unwrap_or_default()
    }

    /// Of an upstream (index plus one, 0 for none). Its members know their own ids.
    pub fn upstream(&self, upstream: u32) -> UpstreamId {
        self.registered
            .as_ref()
            .and_then(|names| names.upstreams.get((upstream as usize).checked_sub(1)?))
            .copied()
            .unwrap_or_default()
    }

    /// Of a listener, by its place among those of the snapshot.
    pub fn listener(&self, index: usize) -> ListenerId {
        self.registered.as_ref().and_then(|names| names.listeners.get(index)).copied().unwrap_or_default()
    }

    /// Of a login.
    pub fn login(&self, login: LoginId) -> LoginName {
        self.registered
            .as_ref()
            .and_then(|names| names.logins.get(usize::from(login.0)))
            .copied()
            .unwrap_or_default()
    }
}
