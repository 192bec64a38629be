//! How byte-level BPE cuts a text before it merges: the splits that `tokenizer.ggml.pre` names.
//!
//! Names, regular expressions and what follows from a name are those of llama.cpp (`llama-vocab.cpp`,
//! `llm_tokenizer_bpe` and `llama_vocab::impl::load`). Each expression cuts the pieces of the one before; what it does
//! not match stays as pieces of its own.

use serde_json::{Value as Json, json};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pre {
    /// Regular expressions, one after the other.
    pub patterns: &'static [&'static str],
    /// A piece that is a token is not built from merges.
    pub ignore_merges: bool,
    /// Whether texts begin with the first token unless the file says otherwise.
    pub add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// Names with the same expressions; the first of each is the one that is written.
const TABLE: [(&[&str], Pre); 17] = [
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        split(&[GPT2]),
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        split(&[r"\p{N}", GPT2]),
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        Pre { patterns: &[LLAMA3], ignore_merges: true, add_bos: true },
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], split(&[LLAMA3])),
    (&["glm4", "glm5"], Pre { patterns: &[LLAMA3], ignore_merges: true, add_bos: false }),
    (
        &["qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "megrez", "solar-open", "grok-2"],
        split(&[QWEN2]),
    ),
    (&["qwen35"], split(&[QWEN35])),
    (&["seed-coder"], split(&[SEED])),
    (
        &["deepseek-coder"],
        split(&[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+",
            r"\p{N}",
        ]),
    ),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        split(&[r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", DEEPSEEK3]),
    ),
    (&["falcon"], split(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"])),
    (&["tekken"], Pre { patterns: &[TEKKEN], ignore_merges: true, add_bos: true }),
    (&["gpt-4o", "llama4", "kanana2", "talkie"], split(&[GPT4O])),
    (&["minimax-m2"], split(&[GPT4O])),
    (&["bloom", "poro-chat", "gpt3-finnish"], split(&[BLOOM])),
    (&["viking"], split(&[BLOOM, r"\p{N}"])),
    (&["default"], split(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"])),
];

const fn split(patterns: &'static [&'static str]) -> Pre {
    Pre { patterns, ignore_merges: false, add_bos: false }
}

/// The splits of a name.
pub(super) fn by_name(name: &str) -> Option<Pre> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| *pre)
}

/// The name of the splits of a `pre_tokenizer` and `ignore_merges` in a `tokenizer.json`, if they have one.
pub(super) fn name_of(pre_tokenizer: &Json, ignore_merges: bool) -> Option<&'static str> {
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![pre_tokenizer],
    };
    let patterns = steps.into_iter().map(patterns_of).collect::<Option<Vec<_>>>()?.concat();
    let found = |pre: &Pre| pre.ignore_merges == ignore_merges && pre.patterns == patterns;
    TABLE.iter().find(|(_, pre)| found(pre)).map(|(names, _)| names[0])
}

/// The expressions of one step; `None` if it does something else than cut.
fn patterns_of(step: &Json) -> Option<Vec<String>> {
    let is = |key: &str, value: Json| step[key] == value;
    match step["type"].as_str()? {
        "ByteLevel" if is("add_prefix_space", false.into()) => {
            Some(if is("use_regex", false.into()) { vec![] } else { vec![GPT2.into()] })
        }
        "Digits" if is("individual_digits", true.into()) => Some(vec![r"\p{N}".into()]),
        "Split" if is("behavior", "Isolated".into()) && is("invert", false.into()) => {
            // The usual files write contractions of any case in a shorter way.
            let any_case = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
            Some(vec![step["pattern"]["Regex"].as_str()?.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", any_case)])
        }
        _ => None,
    }
}

/// The `pre_tokenizer` of a `tokenizer.json`.
pub(super) fn to_json(pre: &Pre) -> Json {
    let split =
        |p: &&str| json!({ "type": "Split", "pattern": { "Regex": p }, "behavior": "Isolated", "invert": false });
    let mut steps: Vec<Json> = pre.patterns.iter().map(split).collect();
    steps.push(super::byte_level());
    json!({ "type": "Sequence", "pretokenizers": steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_from_their_splits() {
        for (names, pre) in &TABLE {
            let first = TABLE.iter().find(|(_, p)| (p.patterns, p.ignore_merges) == (pre.patterns, pre.ignore_merges));
            assert_eq!(name_of(&to_json(pre), pre.ignore_merges), Some(first.unwrap().0[0]), "{names:?}");
        }
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let both = json!({ "type": "Sequence", "pretokenizers": [digits, level] });
        assert_eq!(name_of(&both, false), Some("smollm"));
        assert_eq!(name_of(&level, false), Some("gpt-2"));
        assert_eq!(name_of(&json!({ "type": "Whitespace" }), false), None);
        assert_eq!(name_of(&json!({ "type": "ByteLevel", "add_prefix_space": true, "use_regex": true }), false), None);
        assert_eq!(name_of(&Json::Null, false), None);
    }
}
