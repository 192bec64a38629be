//! Options that take one name of a list: the list is refused from, shown in the help and offered by the shell.

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use parloop_engine::Passes;
use parloop_kernels::{KvType, WeightType};
use parloop_model::{DType, ExpertMode};

/// One name and what it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Name<T: 'static> {
    /// As help and completion show it.
    name: &'static str,
    /// Other spellings; capital letters never matter.
    also: &'static [&'static str],
    value: T,
}

/// The element types, by the names that every command takes for them.
const TYPES: [(DType, &str, &[&str]); 11] = [
    (DType::F32, "f32", &["float32"]),
    (DType::F16, "f16", &["float16"]),
    (DType::BF16, "bf16", &["bfloat16"]),
    (DType::Q8_0, "q8_0", &["q8"]),
    (DType::Q6K, "q6_k", &[]),
    (DType::Q5_1, "q5_1", &[]),
    (DType::Q5K, "q5_k", &[]),
    (DType::Q5_0, "q5_0", &[]),
    (DType::Q4_1, "q4_1", &[]),
    (DType::Q4K, "q4_k", &[]),
    (DType::Q4_0, "q4_0", &["q4"]),
];

/// The name by which commands take and show a type.
pub fn type_name(kind: DType) -> &'static str {
    TYPES.into_iter().find(|t| t.0 == kind).map_or(kind.name(), |t| t.1)
}

/// The element type of a name, whatever its spelling.
fn element_type(text: &str) -> Option<DType> {
    let text = text.to_ascii_lowercase();
    TYPES.into_iter().find(|(_, name, also)| *name == text || also.contains(&&*text)).map(|t| t.0)
}

/// Takes an element type, if it is one of a list.
#[derive(Clone)]
pub struct Types<T: 'static> {
    /// With the name that help and messages show.
    allowed: &'static [(DType, &'static str, T)],
    /// What is to be done about a type that exists and is not allowed.
    advice: &'static str,
}

/// Types in which matrices are computed.
pub const WEIGHTS: Types<WeightType> = Types {
    allowed: &[
        (DType::F32, "f32", WeightType::F32),
        (DType::BF16, "bf16", WeightType::Bf16),
        (DType::Q8_0, "q8", WeightType::Q8),
        (DType::Q4_1, "q4_1", WeightType::Q4Min),
        (DType::Q4_0, "q4", WeightType::Q4),
    ],
    advice: "matrices are not computed in it; take bf16 for f16, and the nearest of",
};

/// Types of keys and values.
pub const KV: Types<KvType> = Types {
    allowed: &[(DType::F32, "f32", KvType::F32), (DType::BF16, "bf16", KvType::Bf16), (DType::Q8_0, "q8", KvType::Q8)],
    advice: "keys and values are not kept in it; take bf16 for f16, and the nearest of",
};

/// Types of the tensors of a checkpoint folder.
pub const PLAIN: Types<DType> = Types {
    allowed: &[(DType::F32, "f32", DType::F32), (DType::F16, "f16", DType::F16), (DType::BF16, "bf16", DType::BF16)],
    advice: "a folder's tensors are not stored in it; `parloop quantize` writes a GGUF file in it; expected",
};

/// Types of the matrices of a GGUF file.
pub const STORED: Types<DType> = Types {
    allowed: &[
        (DType::F32, "f32", DType::F32),
        (DType::F16, "f16", DType::F16),
        (DType::BF16, "bf16", DType::BF16),
        (DType::Q8_0, "q8_0", DType::Q8_0),
        (DType::Q6K, "q6_k", DType::Q6K),
        (DType::Q5_1, "q5_1", DType::Q5_1),
        (DType::Q5K, "q5_k", DType::Q5K),
        (DType::Q5_0, "q5_0", DType::Q5_0),
        (DType::Q4_1, "q4_1", DType::Q4_1),
        (DType::Q4K, "q4_k", DType::Q4K),
        (DType::Q4_0, "q4_0", DType::Q4_0),
    ],
    advice: "expected one of",
};

impl<T: Copy> Types<T> {
    fn find(&self, text: &str) -> Result<T, String> {
        let kind = element_type(text);
        if let Some((_, _, value)) = self.allowed.iter().find(|(allowed, _, _)| Some(*allowed) == kind) {
            return Ok(*value);
        }
        let names: Vec<&str> = self.allowed.iter().map(|(_, name, _)| *name).collect();
        let names = names.join(", ");
        Err(match kind {
            Some(_) => format!("{} {names}", self.advice),
            None => format!("expected one of {names}"),
        })
    }
}

/// Takes one of a table of names.
#[derive(Clone)]
pub struct OneOf<T: 'static>(&'static [Name<T>]);

/// Whose experts later loops take.
pub const ROUTING: OneOf<ExpertMode> = OneOf(&[
    Name { name: "own", also: &[], value: ExpertMode::Own },
    Name { name: "shared", also: &[], value: ExpertMode::Shared },
]);

/// How the loops of a token that is written run.
pub const PASSES: OneOf<Passes> = OneOf(&[
    Name { name: "auto", also: &[], value: Passes::Auto },
    Name { name: "one", also: &["one-pass"], value: Passes::One },
    Name { name: "sequential", also: &[], value: Passes::Sequential },
]);

/// Where a clap parser of names finds a value, and what it offers.
pub trait Lookup: Clone + Send + Sync + 'static {
    type Value: Clone + Send + Sync + 'static;
    fn lookup(&self, text: &str) -> Result<Self::Value, String>;
    fn offered(&self) -> Vec<(&'static str, Vec<&'static str>)>;
}

impl<T: Copy + Send + Sync> Lookup for Types<T> {
    type Value = T;
    fn lookup(&self, text: &str) -> Result<T, String> {
        self.find(text)
    }
    fn offered(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        self.allowed.iter().map(|(_, name, _)| (*name, Vec::new())).collect()
    }
}

impl<T: Copy + Send + Sync> Lookup for OneOf<T> {
    type Value = T;
    fn lookup(&self, text: &str) -> Result<T, String> {
        let lower = text.to_ascii_lowercase();
        let found = self.0.iter().find(|n| n.name == lower || n.also.contains(&&*lower)).map(|n| n.value);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|n| n.name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
    fn offered(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        self.0.iter().map(|n| (n.name, n.also.to_vec())).collect()
    }
}

/// A clap parser over a list of names.
#[derive(Clone)]
pub struct Named<L>(L);

/// The clap parser of a list.
pub fn named<L: Lookup>(list: L) -> Named<L> {
    Named(list)
}

impl<L: Lookup> TypedValueParser for Named<L> {
    type Value = L::Value;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let list = self.0.clone();
        StringValueParser::new().try_map(move |text| list.lookup(&text)).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let value = |(name, also): (&'static str, Vec<&'static str>)| PossibleValue::new(name).aliases(also);
        Some(Box::new(self.0.offered().into_iter().map(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_the_same_names_everywhere() {
        for (name, kind) in [("q8", WeightType::Q8), ("q8_0", WeightType::Q8), ("Q8_0", WeightType::Q8)] {
            assert_eq!(WEIGHTS.find(name).unwrap(), kind);
        }
        assert_eq!(KV.find("Q8_0").unwrap(), KvType::Q8);
        assert_eq!(KV.find("bfloat16").unwrap(), KvType::Bf16);
        assert_eq!(STORED.find("q4").unwrap(), DType::Q4_0);
        assert_eq!(PLAIN.find("F16").unwrap(), DType::F16);
        for kind in DType::ALL {
            assert_eq!(STORED.find(type_name(kind)).unwrap(), kind);
            assert_eq!(element_type(kind.name()), Some(kind), "the name that files have");
        }
    }

    #[test]
    fn a_type_that_exists_is_refused_with_what_to_take() {
        assert!(KV.find("f16").unwrap_err().contains("take bf16"));
        assert!(WEIGHTS.find("q4_k").unwrap_err().ends_with("q4_1, q4"));
        assert!(PLAIN.find("q8").unwrap_err().contains("parloop quantize"));
        assert_eq!(WEIGHTS.find("x"), Err("expected one of f32, bf16, q8, q4_1, q4".into()));
    }
}
