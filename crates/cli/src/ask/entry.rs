//! `attesta entry`: who gets which SPIFFE ID.
//!
//! Must not know what makes an entry valid beyond its grammar: the server says.

mod draft;
mod outcome;
mod render;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use attesta_runtime::Clock;
use attesta_wire::proto::{
    attesta::admin::v1::{self as api, admin_client::AdminClient},
    spire::api::{
        server::agent::v1::{ListAgentsRequest, agent_client::AgentClient, list_agents_request},
        types,
    },
};
use clap::{Args, Subcommand};
use serde_json::json;
use tonic::transport::Channel;

use self::{
    draft::{Draft, Flags},
    outcome::{Outcome, tell},
};
use super::dial::{self, MESSAGE, answer};
use crate::{
    args::{Global, Output},
    output::{Failure, emit, note, say, shown},
};

/// Most entries of one call; the server takes no more than 1000.
const BATCH: usize = 500;
/// Largest file of entries, in bytes: some 500,000 of them.
const FILE_MAX: u64 = 256 * 1024 * 1024;

/// `attesta entry …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create entries
    ///
    /// Whoever the parent vouches for, with all of the selectors, is this SPIFFE ID. Without --parent-id the parent is
    /// the local node of `attesta run`.
    #[command(after_help = "Examples:\n  \
        attesta entry create --spiffe-id spiffe://example.org/pay --selector unix:uid:1000\n  \
        attesta entry create --spiffe-id spiffe://example.org/users/{unix.user} --selector unix:gid:50\n  \
        attesta entry create --spiffe-id spiffe://example.org/ci --selector unix:user:ci --expires 90d\n  \
        attesta entry create --file entries.json\n\n\
        A file holds a JSON list of entries with the names of the flags: spiffe_id, parent_id,\n\
        selectors, x509_svid_ttl (\"10s\" or seconds), jwt_svid_ttl, dns_names, federates_with, hint,\n\
        owner, purpose, labels, priority, sharing, admin, downstream, expires_at, entry_id.\n\
        What `entry list --output json` writes can be read back.")]
    Create(Box<Change>),
    /// Show one entry
    #[command(after_help = "Example:\n  attesta entry show 01a20de4-e97e-76bb-b1ce-51bb46b4b91e")]
    Show(Which),
    /// List entries
    #[command(after_help = "Example:\n  attesta entry list --selector unix:uid:1000 --output json")]
    List(List),
    /// Change entries: only what is given changes
    ///
    /// A list (selectors, DNS names, labels, trust domains) that is given replaces the one before; an empty value empties it.
    #[command(
        after_help = "Example:\n  attesta entry update --entry-id payments --x509-svid-ttl 5m --expires never"
    )]
    Update(Box<Change>),
    /// Delete entries
    #[command(after_help = "Example:\n  attesta entry delete 01a20de4-e97e-76bb-b1ce-51bb46b4b91e")]
    Delete(Deleted),
}

/// One entry by flags, or many by a file.
#[derive(Args)]
pub(crate) struct Change {
    #[command(flatten)]
    flags: Flags,
    /// A file with a JSON list of entries; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "entry")]
    file: Option<PathBuf>,
}

/// One entry.
#[derive(Args)]
pub(crate) struct Which {
    /// The entry's id
    #[arg(value_name = "ENTRY_ID")]
    id: String,
}

/// Which entries to list; what is given must hold.
#[derive(Args)]
pub(crate) struct List {
    /// With this SPIFFE ID, or this template as it was written
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// With this parent
    #[arg(long, value_name = "ID")]
    parent_id: Option<String>,
    /// With this selector among theirs; may be given more than once
    #[arg(long, value_name = "TYPE:VALUE")]
    selector: Vec<String>,
    /// Of this owner
    #[arg(long)]
    owner: Option<String>,
}

/// Which entries to delete.
#[derive(Args)]
pub(crate) struct Deleted {
    /// The entries' ids
    #[arg(value_name = "ENTRY_ID", required_unless_present = "entry_id")]
    ids: Vec<String>,
    /// The same, as a flag; may be given more than once
    #[arg(long, value_name = "ENTRY_ID")]
    entry_id: Vec<String>,
}

type Client = AdminClient<Channel>;

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    // What is wrong with flags or files is told whether there is a server or not.
    match command {
        Command::Create(change) => {
            let drafts = change.drafts()?;
            create(drafts, connect(global).await?, global.output).await
        }
        Command::Update(change) => {
            let drafts = change.drafts()?;
            update(drafts, connect(global).await?, global.output).await
        }
        Command::Show(which) => show(which, connect(global).await?, global.output).await,
        Command::List(list) => list_all(list, connect(global).await?, global.output).await,
        Command::Delete(deleted) => {
            let ids: Vec<String> = deleted.ids.into_iter().chain(deleted.entry_id).collect();
            delete(ids, connect(global).await?, global.output).await
        }
    }
}

async fn connect(global: &Global) -> Result<Channel, Failure> {
    dial::admin(global).await
}

fn client(channel: &Channel) -> Client {
    AdminClient::new(channel.clone()).max_decoding_message_size(MESSAGE)
}

impl Change {
    fn drafts(self) -> Result<Vec<Draft>, Failure> {
        match self.file {
            None => Ok(vec![self.flags.into()]),
            Some(path) => draft::many(&read(&path)?).map_err(|e| {
                Failure::usage(format!("{} holds no entries", path.display())).with_cause(e)
            }),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let bounded = |mut from: &mut dyn Read, bytes: &mut Vec<u8>| {
        (&mut from).take(FILE_MAX + 1).read_to_end(bytes)
    };
    let done = if path == Path::new("-") {
        bounded(&mut std::io::stdin().lock(), &mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut f| bounded(&mut f, &mut bytes))
    };
    done.map_err(|e| Failure::file("read", path, &e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(Failure::usage(format!(
            "{} is larger than {FILE_MAX} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

async fn create(drafts: Vec<Draft>, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let one = drafts.len() == 1;
    let mut node = None;
    let mut entries = Vec::with_capacity(drafts.len());
    for (i, draft) in drafts.into_iter().enumerate() {
        let mut entry = api::Entry {
            base: Some(types::Entry::default()),
            extras: Some(api::Extras::default()),
        };
        let orphan = draft.has_no_parent();
        draft.onto(&mut entry, now).map_err(|e| place(one, i, &e))?;
        if orphan {
            let node = match &node {
                Some(node) => node,
                None => node.insert(local_node(&channel).await?),
            };
            draft::set_parent(&mut entry, node).map_err(|e| place(one, i, &e))?;
        }
        entries.push(entry);
    }
    let mut results = Vec::with_capacity(entries.len());
    for batch in entries.chunks(BATCH) {
        let request = api::CreateEntriesRequest {
            entries: batch.to_vec(),
        };
        let answered = answer(client(&channel).create_entries(request))
            .await?
            .results;
        results.extend(
            answered
                .into_iter()
                .zip(batch.to_vec())
                .map(|(result, asked)| Outcome::new(result, asked)),
        );
    }
    tell(&results, "created", one, output)
}

async fn update(drafts: Vec<Draft>, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let one = drafts.len() == 1;
    let mut results = Vec::with_capacity(drafts.len());
    for (n, batch) in drafts.chunks(BATCH).enumerate() {
        let ids: Vec<String> = batch
            .iter()
            .filter_map(|d| d.id().map(str::to_owned))
            .collect();
        if ids.len() != batch.len() {
            return Err(Failure::usage(
                "an update names its entry: give --entry-id (entry_id in a file)",
            )
            .into());
        }
        let present = listed(
            &channel,
            api::ListEntriesRequest {
                ids,
                ..Default::default()
            },
        )
        .await?;
        let mut changed = Vec::new();
        for (i, draft) in batch.iter().enumerate() {
            let id = draft.id().unwrap_or_default();
            match present
                .iter()
                .find(|e| e.base.as_ref().is_some_and(|b| b.id == id))
            {
                Some(entry) => {
                    let mut entry = entry.clone();
                    draft
                        .clone()
                        .onto(&mut entry, now)
                        .map_err(|e| place(one, n * BATCH + i, &e))?;
                    changed.push(entry);
                }
                None => results.push(Outcome::missing(id)),
            }
        }
        let request = api::UpdateEntriesRequest {
            entries: changed.clone(),
        };
        let answered = if changed.is_empty() {
            Vec::new()
        } else {
            answer(client(&channel).update_entries(request))
                .await?
                .results
        };
        results.extend(
            answered
                .into_iter()
                .zip(changed)
                .map(|(result, asked)| Outcome::new(result, asked)),
        );
    }
    tell(&results, "updated", one, output)
}

fn place(one: bool, index: usize, error: &str) -> Failure {
    if one {
        Failure::usage(error)
    } else {
        Failure::usage(format!("entry {} of the file: {error}", index + 1))
    }
}

async fn listed(
    channel: &Channel,
    request: api::ListEntriesRequest,
) -> Result<Vec<api::Entry>, Failure> {
    let mut entries = Vec::new();
    let mut next = String::new();
    loop {
        let request = api::ListEntriesRequest {
            page_token: next,
            ..request.clone()
        };
        let page = answer(client(channel).list_entries(request)).await?;
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return Ok(entries);
        }
        next = page.next_page_token;
    }
}

async fn show(which: Which, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let request = api::ListEntriesRequest {
        ids: vec![which.id.clone()],
        ..Default::default()
    };
    let entries = listed(&channel, request).await?;
    let entry = entries
        .first()
        .ok_or_else(|| Failure::failed(format!("there is no entry {}", which.id)))?;
    match output {
        Output::Json => emit(&render::json(entry))?,
        Output::Text => say(render::block(entry, Clock::system().now())
            .to_string()
            .trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_all(list: List, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let request = api::ListEntriesRequest {
        spiffe_id: list.spiffe_id.clone().unwrap_or_default(),
        parent_id: list.parent_id.clone().unwrap_or_default(),
        ..Default::default()
    };
    let mut entries = listed(&channel, request).await?;
    entries.retain(|e| list.fits(e));
    match output {
        Output::Json => {
            emit(&json!({ "entries": entries.iter().map(render::json).collect::<Vec<_>>() }))?
        }
        Output::Text => {
            let now = Clock::system().now();
            say(format!(
                "Found {} {}",
                entries.len(),
                if entries.len() == 1 {
                    "entry"
                } else {
                    "entries"
                }
            ))?;
            for entry in &entries {
                say(format!(
                    "\n{}",
                    render::block(entry, now).to_string().trim_end()
                ))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl List {
    /// What the server does not filter by.
    fn fits(&self, entry: &api::Entry) -> bool {
        let selectors = render::selectors(entry);
        self.selector.iter().all(|s| selectors.contains(s))
            && self
                .owner
                .as_ref()
                .is_none_or(|owner| entry.extras.as_ref().is_some_and(|e| e.owner == *owner))
    }
}

async fn delete(ids: Vec<String>, channel: Channel, output: Output) -> anyhow::Result<ExitCode> {
    let mut results = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let request = api::DeleteEntriesRequest {
            ids: batch.to_vec(),
        };
        results.extend(
            answer(client(&channel).delete_entries(request))
                .await?
                .results,
        );
    }
    let mut all = true;
    let mut values = Vec::new();
    for result in &results {
        let status = result.status.clone().unwrap_or_default();
        let code = dial::word(tonic::Code::from(status.code));
        let ok = status.code == 0;
        all &= ok;
        match output {
            Output::Json => values.push(json!({
                "ok": ok,
                "code": code,
                "message": if ok { "" } else { status.message.as_str() },
                "entry_id": result.id,
            })),
            Output::Text if ok => say(format!("deleted entry {}", shown(&result.id)))?,
            Output::Text => note(format!(
                "error: entry {} was not deleted: {} ({code})",
                shown(&result.id),
                shown(&status.message)
            )),
        }
    }
    if output == Output::Json {
        emit(&json!({ "results": values }))?;
    }
    Ok(ExitCode::from(u8::from(!all)))
}

/// An entry's selectors, as `type:value`.
pub(super) fn selectors(entry: &api::Entry) -> Vec<String> {
    render::selectors(entry)
}

/// The SPIFFE ID of the node in the server's own process, else of the one agent that attested as local.
pub(super) async fn local_node(channel: &Channel) -> Result<String, Failure> {
    let status = answer(client(channel).get_status(api::GetStatusRequest {})).await?;
    if !status.node.is_empty() {
        return Ok(status.node);
    }
    let filter = list_agents_request::Filter {
        by_attestation_type: "local".to_owned(),
        ..Default::default()
    };
    let request = ListAgentsRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let agents = answer(
        AgentClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE)
            .list_agents(request),
    )
    .await?
    .agents;
    let mut ids = agents
        .iter()
        .filter_map(|a| a.id.as_ref())
        .map(attesta_wire::id::text);
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Failure::usage(
            "this server has no local node: say whose workloads these are with --parent-id",
        )
        .with_hint("attesta agent list shows the nodes")),
        (Some(_), Some(_)) => Err(Failure::usage(
            "this server has more than one local node: say which with --parent-id",
        )
        .with_hint("attesta agent list shows the nodes")),
    }
}
