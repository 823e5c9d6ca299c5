//! A pod as JSON, taken apart into the lists that injection changes.
//!
//! Fields that this version does not know are preserved, whatever the version of the cluster. The API server has checked the
//! types of the fields; of a file's pod, a field of another type is refused.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// A pod, or the template of one.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    /// Everything else.
    root: Object,
    metadata: Object,
    pub(super) labels: Object,
    pub(super) annotations: Object,
    /// Without the lists below.
    pub(super) spec: Object,
    pub(super) init_containers: Vec<Container>,
    pub(super) containers: Vec<Container>,
    pub(super) volumes: Vec<Object>,
}

/// A container and its path in the pod, for refusals.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) fields: Object,
}

impl Pod {
    /// Takes a pod apart.
    pub(super) fn read(pod: Value) -> Result<Self, Refusal> {
        let mut root = object(pod, "pod")?;
        let mut metadata = object(take_field(&mut root, "metadata"), "metadata")?;
        let labels = object(take_field(&mut metadata, "labels"), "metadata.labels")?;
        let annotations = object(take_field(&mut metadata, "annotations"), "metadata.annotations")?;
        let mut spec = object(take_field(&mut root, "spec"), "spec")?;
        let init_containers = containers(&mut spec, "initContainers")?;
        let containers = containers(&mut spec, "containers")?;
        let volumes = objects(take_field(&mut spec, "volumes"), "spec.volumes")?;
        if containers.is_empty() {
            return Err(Refusal::new("spec.containers", "a pod has at least one container"));
        }
        Ok(Self { root, metadata, labels, annotations, spec, init_containers, containers, volumes })
    }

    /// Puts the pod together again. Empty lists and maps are omitted, as the API server does.
    pub(super) fn into_value(self) -> Value {
        let Self {
            mut root,
            mut metadata,
            labels,
            annotations,
            mut spec,
            init_containers,
            containers,
            volumes,
        } = self;
        put(&mut metadata, "labels", labels);
        put(&mut metadata, "annotations", annotations);
        let values =
            |containers: Vec<Container>| containers.into_iter().map(|of| Value::Object(of.fields)).collect();
        for (name, list) in [
            ("initContainers", values(init_containers)),
            ("containers", values(containers)),
            ("volumes", volumes.into_iter().map(Value::Object).collect::<Vec<_>>()),
        ] {
            if !list.is_empty() {
                spec.insert(name.to_owned(), Value::Array(list));
            }
        }
        put(&mut root, "metadata", metadata);
        put(&mut root, "spec", spec);
        Value::Object(root)
    }

    /// Returns the name of the Deployment, StatefulSet or other workload that makes the pod: the start of the pod's name.
    pub(super) fn workload_name(&self) -> Option<&str> {
        let prefix = self.metadata.get("generateName")?.as_str()?.trim_end_matches('-');
        // The pods of a Deployment are made by a ReplicaSet, whose name ends with the hash of the template.
        let hash = self.labels.get("pod-template-hash").and_then(Value::as_str);
        let deployment = hash.and_then(|hash| prefix.strip_suffix(hash)?.strip_suffix('-'));
        Some(deployment.unwrap_or(prefix)).filter(|name| !name.is_empty())
    }

    /// Returns the containers of both lists.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Returns the containers that run as long as the pod: all but init containers that end. Only these can have probes.
    pub(super) fn running_containers(&mut self) -> impl Iterator<Item = &mut Container> {
        let sidecars = self.init_containers.iter_mut().filter(|container| container.is_sidecar());
        sidecars.chain(&mut self.containers)
    }
}

impl Container {
    /// Returns a container that injection adds. Returns None if it is not an object with a name.
    pub(super) fn added(fields: Value) -> Option<Self> {
        let Value::Object(fields) = fields else { return None };
        let name = fields.get("name")?.as_str()?.to_owned();
        Some(Self { path: String::new(), name, fields })
    }

    /// Returns whether an init container is a native sidecar.
    fn is_sidecar(&self) -> bool {
        self.fields.get("restartPolicy").and_then(Value::as_str) == Some("Always")
    }

    /// Returns the objects of a list. Values of other types are skipped.
    pub(super) fn objects(&self, field: &str) -> impl Iterator<Item = &Object> {
        self.fields.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    }
}

/// Returns a field of a nested object.
pub(super) fn nested<'a>(object: &'a Object, path: [&str; 2]) -> Option<&'a Value> {
    object.get(path[0])?.as_object()?.get(path[1])
}

fn put(parent: &mut Object, name: &str, object: Object) {
    if !object.is_empty() {
        parent.insert(name.to_owned(), Value::Object(object));
    }
}

fn take_field(parent: &mut Object, name: &str) -> Value {
    parent.remove(name).unwrap_or_default()
}

/// Returns the object; an empty one for null.
pub(super) fn object(value: Value, path: &str) -> Result<Object, Refusal> {
    match value {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Object::new()),
        _ => Err(Refusal::new(path, "must be an object")),
    }
}

fn objects(value: Value, path: &str) -> Result<Vec<Object>, Refusal> {
    match value {
        Value::Array(values) => {
            let at = |(index, value)| match value {
                Value::Object(object) => Ok(object),
                _ => Err(Refusal::new(format!("{path}[{index}]"), "must be an object")),
            };
            values.into_iter().enumerate().map(at).collect()
        }
        Value::Null => Ok(Vec::new()),
        _ => Err(Refusal::new(path, "must be a list")),
    }
}

fn containers(spec: &mut Object, list: &str) -> Result<Vec<Container>, Refusal> {
    let path = format!("spec.{list}");
    let container = |(index, fields): (usize, Object)| {
        let path = format!("{path}[{index}]");
        match fields.get("name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => Ok(Container { path, name: name.to_owned(), fields }),
            _ => Err(Refusal::new(format!("{path}.name"), "must be a string")),
        }
    };
    objects(take_field(spec, list), &path)?.into_iter().enumerate().map(container).collect()
}
