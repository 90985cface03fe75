//! Our compiled descriptors against the tables of SPIFFE's and SPIRE's wire: nothing missing, nothing added.
//!
//! Both sides become sets of lines, one per fact, and the sets must be equal. Where the tables are not beside the
//! checkout the comparison is skipped, and says so.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use attesta_wire::{FILE_DESCRIPTOR_SET, WORKLOAD_DESCRIPTOR_SET};
use prost::{Message as _, Name as _};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::Value;

type Facts = BTreeSet<String>;

#[test]
fn spiffe_and_spire_are_as_their_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/wire");
    if !folder.is_dir() {
        // Written past the test harness, which would swallow it with the rest of a passing test's output.
        writeln!(
            std::io::stderr(),
            "skipped: wire tables not present ({})",
            folder.display()
        )
        .unwrap();
        return;
    }
    let tables = ["spiffe.json", "spire-api.json"];
    let table: Facts = tables
        .iter()
        .flat_map(|name| facts_of_table(folder.join(name)))
        .collect();
    let ours: Facts = facts_of_descriptors(&decode(FILE_DESCRIPTOR_SET), |package| {
        !package.starts_with("attesta.")
    });

    let missing: Vec<_> = table.difference(&ours).collect();
    let added: Vec<_> = ours.difference(&table).collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "missing from ours: {missing:#?}\nnot in the tables: {added:#?}"
    );
    assert!(
        table.len() > 700,
        "only {} facts: were the tables read?",
        table.len()
    );
}

#[test]
fn a_fact_is_all_that_the_wire_depends_on() {
    let facts = facts_of_descriptors(&decode(FILE_DESCRIPTOR_SET), |_| true);
    for line in [
        "rpc /SpiffeWorkloadAPI/FetchX509SVID X509SVIDRequest -> stream X509SVIDResponse",
        "rpc /spire.api.server.agent.v1.Agent/AttestAgent stream spire.api.server.agent.v1.AttestAgentRequest -> stream spire.api.server.agent.v1.AttestAgentResponse",
        "message X509SVIDRequest",
        "field X509SVIDResponse.svids = 1 repeated X509SVID",
        "field X509SVIDResponse.federated_bundles = 3 map<string, bytes>",
        "field spire.api.types.Entry.additional_attributes = 16 spire.api.types.Entry.AdditionalAttributes oneof _additional_attributes",
        "field spire.api.server.agent.v1.AttestAgentRequest.challenge_response = 2 bytes oneof step",
        "enum spire.api.types.SelectorMatch.MatchBehavior MATCH_SUPERSET = 2",
    ] {
        assert!(facts.contains(line), "no fact: {line}");
    }
}

#[test]
fn reflection_on_the_public_socket_shows_the_workload_api_only() {
    let set = decode(WORKLOAD_DESCRIPTOR_SET);
    let names: Vec<&str> = set
        .file
        .iter()
        .map(prost_types::FileDescriptorProto::name)
        .collect();
    assert_eq!(names, ["google/protobuf/struct.proto", "workload.proto"]);
    let services: Vec<&str> = set
        .file
        .iter()
        .flat_map(|file| &file.service)
        .map(|service| service.name())
        .collect();
    assert_eq!(services, ["SpiffeWorkloadAPI"]);
}

/// A door that is added here has to be added to the table of all RPCs too.
#[test]
fn our_own_services_are_beside_them() {
    let facts = facts_of_descriptors(&decode(FILE_DESCRIPTOR_SET), |package| {
        package.starts_with("attesta.")
    });
    let rpcs: Vec<&str> = facts
        .iter()
        .filter_map(|line| line.strip_prefix("rpc "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        rpcs,
        [
            "/attesta.admin.v1.Admin/CreateEntries",
            "/attesta.admin.v1.Admin/DeleteEntries",
            "/attesta.admin.v1.Admin/Explain",
            "/attesta.admin.v1.Admin/GetStatus",
            "/attesta.admin.v1.Admin/ListEntries",
            "/attesta.admin.v1.Admin/ListRecords",
            "/attesta.admin.v1.Admin/TailRecords",
            "/attesta.admin.v1.Admin/UpdateEntries",
            "/attesta.agent.v1.AgentAdmin/Explain",
            "/attesta.agent.v1.AgentLink/Ended",
            "/attesta.agent.v1.AgentLink/Issue",
            "/attesta.agent.v1.AgentLink/Watch",
        ]
    );
}

#[test]
fn the_type_of_a_status_detail_is_the_one_that_agents_look_for() {
    type Details = attesta_wire::proto::spire::api::types::PermissionDeniedDetails;
    assert_eq!(
        Details::type_url(),
        "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    );
}

fn decode(bytes: &[u8]) -> FileDescriptorSet {
    FileDescriptorSet::decode(bytes).unwrap()
}

/// `type`, as the tables write it, with what surrounds it.
fn field(message: &str, name: &str, number: i64, kind: &str, oneof: Option<&str>) -> String {
    let oneof = oneof
        .map(|oneof| format!(" oneof {oneof}"))
        .unwrap_or_default();
    format!("field {message}.{name} = {number} {kind}{oneof}")
}

fn rpc(service: &str, method: &str, input: (&str, bool), output: (&str, bool)) -> String {
    let shown =
        |(name, stream): (&str, bool)| format!("{}{name}", if stream { "stream " } else { "" });
    format!(
        "rpc /{service}/{method} {} -> {}",
        shown(input),
        shown(output)
    )
}

fn facts_of_table(path: PathBuf) -> Facts {
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let table: Value = serde_json::from_str(&text).unwrap();
    let section = |name: &str| {
        table[name]
            .as_object()
            .expect("a table has services, messages and enums")
    };
    let mut facts = Facts::new();
    for (service, methods) in section("services") {
        facts.insert(format!("service {service}"));
        for (method, of) in methods.as_object().unwrap() {
            only(
                of,
                &["input", "output", "client_streaming", "server_streaming"],
            );
            let side = |name: &str, stream: &str| {
                (
                    of[name].as_str().unwrap(),
                    of[stream].as_bool().unwrap_or(false),
                )
            };
            let (input, output) = (
                side("input", "client_streaming"),
                side("output", "server_streaming"),
            );
            facts.insert(rpc(service, method, input, output));
        }
    }
    for (message, fields) in section("messages") {
        facts.insert(format!("message {message}"));
        for (name, of) in fields.as_object().unwrap() {
            only(of, &["number", "type", "repeated", "map", "oneof"]);
            let kind = if let Some(map) = of["map"].as_array() {
                format!(
                    "map<{}, {}>",
                    map[0].as_str().unwrap(),
                    map[1].as_str().unwrap()
                )
            } else {
                let repeated = if of["repeated"] == true {
                    "repeated "
                } else {
                    ""
                };
                format!("{repeated}{}", of["type"].as_str().unwrap())
            };
            facts.insert(field(
                message,
                name,
                of["number"].as_i64().unwrap(),
                &kind,
                of["oneof"].as_str(),
            ));
        }
    }
    for (name, values) in section("enums") {
        for (value, number) in values.as_object().unwrap() {
            facts.insert(format!("enum {name} {value} = {number}"));
        }
    }
    facts
}

/// A table that says more than this test understands must not pass unseen.
fn only(of: &Value, known: &[&str]) {
    for key in of.as_object().unwrap().keys() {
        assert!(
            known.contains(&key.as_str()),
            "the tables have a {key} that this test does not compare"
        );
    }
}

fn facts_of_descriptors(set: &FileDescriptorSet, wanted: impl Fn(&str) -> bool) -> Facts {
    let mut facts = Facts::new();
    for file in &set.file {
        let package = file.package();
        if package == "google.protobuf" || !wanted(package) {
            continue;
        }
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        for service in &file.service {
            let name = within(package, service.name());
            facts.insert(format!("service {name}"));
            for method in &service.method {
                let input = (full(method.input_type()), method.client_streaming());
                let output = (full(method.output_type()), method.server_streaming());
                facts.insert(rpc(&name, method.name(), input, output));
            }
        }
        for message in &file.message_type {
            message_facts(&within(package, message.name()), message, &mut facts);
        }
        for of in &file.enum_type {
            enum_facts(&within(package, of.name()), of, &mut facts);
        }
    }
    facts
}

fn message_facts(name: &str, message: &DescriptorProto, facts: &mut Facts) {
    facts.insert(format!("message {name}"));
    let mut maps = BTreeMap::new();
    for nested in &message.nested_type {
        let nested_name = within(name, nested.name());
        if nested
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
        {
            let kinds: Vec<String> = nested.field.iter().map(kind).collect();
            maps.insert(nested_name, format!("map<{}>", kinds.join(", ")));
        } else {
            message_facts(&nested_name, nested, facts);
        }
    }
    for of in &message.enum_type {
        enum_facts(&within(name, of.name()), of, facts);
    }
    for of in &message.field {
        let oneof = of
            .oneof_index
            .map(|index| message.oneof_decl[usize::try_from(index).unwrap()].name());
        assert_eq!(
            of.proto3_optional(),
            oneof.is_some_and(|oneof| oneof.starts_with('_')),
            "{name}.{}",
            of.name()
        );
        let plain = kind(of);
        let kind = match (maps.get(&plain), of.label()) {
            (Some(map), _) => map.clone(),
            (None, Label::Repeated) => format!("repeated {plain}"),
            (None, _) => plain,
        };
        facts.insert(field(name, of.name(), i64::from(of.number()), &kind, oneof));
    }
}

fn enum_facts(name: &str, of: &EnumDescriptorProto, facts: &mut Facts) {
    for value in &of.value {
        facts.insert(format!("enum {name} {} = {}", value.name(), value.number()));
    }
}

/// The type of one value of the field: a scalar's name, or the full name of a message or enum.
fn kind(of: &FieldDescriptorProto) -> String {
    match of.r#type() {
        Type::Message | Type::Enum => full(of.type_name()).to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

fn full(name: &str) -> &str {
    name.trim_start_matches('.')
}

fn within(outer: &str, name: &str) -> String {
    if outer.is_empty() {
        name.to_owned()
    } else {
        format!("{outer}.{name}")
    }
}
