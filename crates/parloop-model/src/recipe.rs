//! The loop recipe: what distinguishes one looped transformer from another.
//!
//! Every system of the family is a row of a table (`docs/model.md`); [`Recipe::preset`] holds that table.

use crate::fields::Fields;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most loops a recipe may ask for. The published models use 2 to 4.
pub const MAX_LOOPS: usize = 64;
/// Widest sliding window a recipe may ask for.
pub const MAX_LEFT: usize = 1 << 20;

/// How loops relate to one another. Loops count from 1 in text; fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Recipe {
    /// R, the number of loops per token.
    pub count: usize,
    /// Loop r >= 2 at token t takes loop r-1's output of token t-1 (zeros at t = 0) instead of token t.
    pub shift: bool,
    /// Coefficient of the token's embedding in the input of loops r >= 2; `None`: it is not added again.
    pub embedding_scale: Option<f32>,
    /// Coefficient of the (shifted) output of loop r-1.
    pub hidden_scale: f32,
    /// Apply the model's final RMSNorm to the output of every loop but the last before scaling and shifting.
    pub norm: bool,
    /// Whose keys and values later loops attend.
    pub kv: KvMode,
    /// Gated sliding-window attention of later loops, if any.
    pub local: Option<Local>,
    /// A learned gate that may take the logits from an earlier loop, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whose experts later loops take, where the block has experts.
    #[serde(skip_serializing_if = "ExpertMode::is_own")]
    pub experts: ExpertMode,
}

/// Whose experts loops r >= 2 take, where the block is a mixture of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertMode {
    /// Every loop routes its rows by itself.
    #[default]
    Own,
    /// Loops r >= 2 take the experts that loop 1 chose for the same token in the same layer, and weigh them themselves.
    Shared,
}

impl ExpertMode {
    fn is_own(&self) -> bool {
        *self == Self::Own
    }
}

/// The exit gate (Ouro, arXiv 2510.25741). After each loop u its probability of ending there is
/// `p_u = lambda_u * prod_{v<u} (1 - lambda_v)` with `lambda_u = sigmoid(<w, H_u> + b)` and H_u the normed state; the
/// logits come from the first loop at which the sum of p reaches the threshold, at the latest from the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exit {
    /// From 0 (always the first loop) to 1 (always the last loop).
    pub threshold: f32,
}

/// Whose keys and values loops r >= 2 attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvMode {
    /// Every loop attends its own K/V, fully causal.
    PerLoop,
    /// Loops r >= 2 attend loop 1's K/V of the same layer.
    Shared,
}

/// Gated sliding-window attention (G-SWA) of loops r >= 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Local {
    /// Keys to the left of the query; with the query's own key the window holds `left + 1`.
    pub left: usize,
    /// What the gate looks at.
    pub gate: GateKind,
}

/// What the gate between the global and the local branch looks at. The gate multiplies the *global* branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// `sigmoid(W_gate . RMSNorm_gate(x) + b)`, x the residual stream before `input_layernorm`.
    Hidden,
    /// `sigmoid(<w_head, q_head> + b)`, q after RoPE.
    Query,
}

impl Recipe {
    /// A plain transformer: one loop.
    pub fn vanilla() -> Self {
        Self { count: 1, local: None, kv: KvMode::PerLoop, ..Self::plt(1) }
    }

    /// PLT-R with LoopCoder-V2's scales, window and gate.
    pub fn plt(count: usize) -> Self {
        Self {
            count,
            shift: true,
            embedding_scale: Some(0.707),
            hidden_scale: 0.053,
            norm: true,
            kv: KvMode::Shared,
            local: Some(Local { left: 64, gate: GateKind::Hidden }),
            exit: None,
            experts: ExpertMode::Own,
        }
    }

    /// Loop R times over the same token, one loop after the other, nothing shared.
    pub fn vanilla_loop(count: usize) -> Self {
        Self {
            count,
            shift: false,
            embedding_scale: None,
            hidden_scale: 1.0,
            norm: false,
            kv: KvMode::PerLoop,
            local: None,
            exit: None,
            experts: ExpertMode::Own,
        }
    }

    /// A named recipe: `vanilla`, `loopR`, `loopR-clp`, `loopR-clp-share`, `pltR`, `pltR-query`, for any R
    /// (`loop2`, `plt3`, ...), with `-shared-experts` after it where later loops are to take loop 1's experts. `loopR-clp` adds cross-loop parallelism (the shift), `-share` shares loop 1's K/V.
    ///
    /// # Errors
    /// The name is none of these, or R is 0 or above [`MAX_LOOPS`].
    pub fn preset(name: &str) -> Result<Self> {
        let unknown = || {
            Error::Config(format!(
                "unknown recipe \"{name}\": expected vanilla, loopR, loopR-clp, loopR-clp-share, pltR or pltR-query \
                 with R the number of loops, for example plt2, and -shared-experts after it where loops share experts"
            ))
        };
        if let Some(name) = name.strip_suffix("-shared-experts") {
            let recipe = Self { experts: ExpertMode::Shared, ..Self::preset(name).map_err(|_| unknown())? };
            return recipe.validate().map(|()| recipe);
        }
        if name == "vanilla" {
            return Ok(Self::vanilla());
        }
        let (head, variant) = name.split_once('-').map_or((name, ""), |(a, b)| (a, b));
        let digits = head.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let family = &head[..head.len() - digits.len()];
        let count = digits.parse::<usize>().map_err(|_| unknown())?;
        let recipe = match (family, variant) {
            ("loop", "") => Self::vanilla_loop(count),
            ("loop", "clp") => Self { kv: KvMode::PerLoop, local: None, ..Self::plt(count) },
            ("loop", "clp-share") => Self { local: None, ..Self::plt(count) },
            ("plt", "") => Self::plt(count),
            ("plt", "query") => Self { local: Some(Local { left: 64, gate: GateKind::Query }), ..Self::plt(count) },
            _ => return Err(unknown()),
        };
        recipe.validate()?;
        Ok(recipe)
    }

    /// Checks ranges that the type cannot express.
    ///
    /// # Errors
    /// Names the field, the value found and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let fail = |field: &str, found: String, expected: &str| {
            Err(Error::Config(format!("loop.{field} is {found}, expected {expected}")))
        };
        if self.count == 0 || self.count > MAX_LOOPS {
            return fail("count", self.count.to_string(), "1 to 64");
        }
        if !self.hidden_scale.is_finite() {
            return fail("hidden_scale", self.hidden_scale.to_string(), "a finite number");
        }
        if let Some(scale) = self.embedding_scale.filter(|s| !s.is_finite()) {
            return fail("embedding_scale", scale.to_string(), "a finite number or null");
        }
        if let Some(exit) = self.exit.filter(|exit| !(0.0..=1.0).contains(&exit.threshold)) {
            return fail("exit.threshold", exit.threshold.to_string(), "0 to 1");
        }
        if self.experts == ExpertMode::Shared && self.count == 1 {
            let expected = "\"own\" with loop.count = 1: there is no later loop that could take loop 1's experts";
            return fail("experts", "\"shared\"".into(), expected);
        }
        match self.local {
            Some(local) if local.left > MAX_LEFT => {
                fail("local.left", local.left.to_string(), "at most 1048576 positions")
            }
            Some(_) if self.kv == KvMode::PerLoop => fail(
                "local",
                "a sliding window together with kv = \"per_loop\"".into(),
                "kv = \"shared\": the window is the later loops' only view of their own states",
            ),
            _ => Ok(()),
        }
    }

    /// Whether all loops of a token can be computed in one pass over the weights: no row of such a step needs
    /// another row's deeper output.
    pub fn one_pass(&self) -> bool {
        self.count == 1 || self.shift
    }

    /// Whether loop `r` (0-based) computes keys and values of its own.
    pub fn has_own_kv(&self, r: usize) -> bool {
        r == 0 || self.kv == KvMode::PerLoop || self.local.is_some()
    }

    /// Why one-pass decode is refused, as a sentence; `None` where it is possible.
    pub fn why_not_one_pass(&self) -> Option<&'static str> {
        (!self.one_pass()).then_some(
            "the recipe has shift = false: each loop needs the same token's output of the loop before, \
             so the loops can only run one after the other",
        )
    }

    /// The recipe in a line of plain English.
    pub fn describe(&self) -> String {
        if self.count == 1 {
            return "plain transformer (1 loop)".into();
        }
        let mut text = format!("{} loops", self.count);
        text += if self.shift { ", each shifted by one token (one-pass decode)" } else { ", one after the other" };
        match self.embedding_scale {
            Some(e) => text += &format!("; input {e} x embedding + {} x ", self.hidden_scale),
            None => text += &format!("; input {} x ", self.hidden_scale),
        }
        text += if self.norm { "normed output of the loop before" } else { "output of the loop before" };
        text += match self.kv {
            KvMode::PerLoop => "; own K/V in every loop",
            KvMode::Shared => "; loop 1's K/V shared by the later loops",
        };
        if let Some(Local { left, gate }) = self.local {
            let gate = if gate == GateKind::Hidden { "hidden state" } else { "query" };
            text += &format!("; gated window of {left} + 1 own keys (gate from the {gate})");
        }
        if self.experts == ExpertMode::Shared {
            text += "; loop 1's experts taken by the later loops";
        }
        match self.exit {
            Some(exit) if exit.threshold < 1.0 => {
                text += &format!("; logits of the loop at which the exit gate reaches {}", exit.threshold);
            }
            Some(_) => text += "; exit gate that never ends early",
            None => {}
        }
        text
    }
}

impl Recipe {
    /// Reads the object `loop` of our `config.json`, or a table of a training file.
    pub(crate) fn read(mut fields: Fields) -> Result<Self> {
        let keys = ["count", "shift", "embedding_scale", "hidden_scale", "norm", "kv", "local", "exit", "experts"];
        fields.known(&keys)?;
        fields.need(&[
            ("count", "a whole number from 1 to 64"),
            ("shift", "true or false"),
            ("hidden_scale", "a number"),
            ("norm", "true or false"),
            ("kv", "\"per_loop\" or \"shared\""),
        ])?;
        let local = |mut local: Fields| {
            local.known(&["left", "gate"])?;
            local.need(&[("left", "a whole number"), ("gate", "\"hidden\" or \"query\"")])?;
            let gates = [("hidden", GateKind::Hidden), ("query", GateKind::Query)];
            Ok(Local { left: local.required("left")?, gate: local.word("gate", &gates)? })
        };
        let exit = |mut exit: Fields| {
            exit.known(&["threshold"])?;
            Ok(Exit { threshold: exit.required("threshold")? })
        };
        Ok(Self {
            count: fields.required("count")?,
            shift: fields.required("shift")?,
            embedding_scale: fields.optional("embedding_scale")?,
            hidden_scale: fields.required("hidden_scale")?,
            norm: fields.required("norm")?,
            kv: fields.word("kv", &[("per_loop", KvMode::PerLoop), ("shared", KvMode::Shared)])?,
            local: fields.object("local")?.map(local).transpose()?,
            exit: fields.object("exit")?.map(exit).transpose()?,
            experts: match fields.has("experts") {
                true => fields.word("experts", &[("own", ExpertMode::Own), ("shared", ExpertMode::Shared)])?,
                false => ExpertMode::Own,
            },
        })
    }
}

impl TryFrom<Map<String, Value>> for Recipe {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Self> {
        Self::read(Fields::of_map(map, "loop"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_the_rows_of_the_table() {
        let plt3 = Recipe::preset("plt3").unwrap();
        assert_eq!((plt3.count, plt3.shift, plt3.kv), (3, true, KvMode::Shared));
        assert_eq!(plt3.local, Some(Local { left: 64, gate: GateKind::Hidden }));
        let looped = Recipe::preset("loop4").unwrap();
        assert_eq!((looped.count, looped.shift, looped.embedding_scale), (4, false, None));
        assert_eq!(Recipe::preset("loop2-clp").unwrap().kv, KvMode::PerLoop);
        assert_eq!(Recipe::preset("loop2-clp-share").unwrap().kv, KvMode::Shared);
        assert!(Recipe::preset("vanilla").unwrap().one_pass());
        assert!(!looped.one_pass() && plt3.one_pass());
        let shared = Recipe::preset("plt2-shared-experts").unwrap();
        assert_eq!(shared, Recipe { experts: ExpertMode::Shared, ..Recipe::plt(2) });
    }

    #[test]
    fn unknown_names_and_counts_are_refused() {
        for name in [
            "",
            "plt",
            "plt0",
            "plt65",
            "plt-2",
            "loop2-share",
            "plt99999999999999999999",
            "2plt",
            "vanilla2",
            "vanilla-shared-experts",
            "plt1-shared-experts",
        ] {
            assert!(Recipe::preset(name).is_err(), "{name}");
        }
    }

    #[test]
    fn all_fields_that_are_missing_are_named_at_once() {
        let read = |text: &str| serde_json::from_str::<Recipe>(text).unwrap_err().to_string();
        let message = read(r#"{"count":2,"shift":true,"kv":null}"#);
        for field in ["no loop.hidden_scale (a number)", "no loop.norm", "no loop.kv (\"per_loop\" or \"shared\")"] {
            assert!(message.contains(field), "{message}");
        }
        assert!(!message.contains("count") && !message.contains("shift"), "{message}");
        let rest = r#""count":2,"shift":true,"hidden_scale":1,"norm":true"#;
        assert!(read(&format!("{{{rest}}}")).contains("has no loop.kv, expected"));
        let message = read(&format!(r#"{{{rest},"kv":"shared","local":{{}}}}"#));
        assert!(message.contains("no loop.local.left (a whole number) and no loop.local.gate"), "{message}");
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let text = r#"{"count":2,"shift":true,"embedding_scale":null,"hidden_scale":1.0,"norm":true,"kv":"shared","local":null,"swing":1}"#;
        assert!(serde_json::from_str::<Recipe>(text).unwrap_err().to_string().contains("swing"));
    }
}
