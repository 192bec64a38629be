//! The library's options as flags, and where each value came from.

use anyhow::{Result, anyhow};
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use parloop_train::options::{Allowed, OPTIONS, Preset, Settings, TrainOption, TrainOptions};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The options given as flags: one for each row of the library's list.
#[derive(Clone, Debug, Default)]
pub struct Flags(Vec<(&'static TrainOption, toml::Value)>);

/// `hidden_size` as a flag, without its dashes.
fn long(name: &str) -> String {
    name.replace('_', "-")
}

/// What the presets say, for the help.
fn defaults(option: &TrainOption) -> String {
    let values = Preset::ALL.map(|preset| {
        let value = option.get(&TrainOptions::preset(preset));
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    });
    match &values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => match first.as_str() {
            "" => String::new(),
            _ => format!(" [default: {first}]"),
        },
        _ if option.name == "preset" => format!(" [default: {}]", Preset::default().name()),
        _ => {
            let pairs: Vec<String> =
                Preset::ALL.iter().zip(&values).map(|(preset, value)| format!("{} {value}", preset.name())).collect();
            format!(" [{}]", pairs.join(", "))
        }
    }
}

fn argument(option: &'static TrainOption) -> Arg {
    let read = move |text: &str| {
        let value = option.allowed.parse(text);
        if option.allowed.holds(&value) { Ok(value) } else { Err(format!("expected {}", option.allowed)) }
    };
    let argument = Arg::new(option.name)
        .long(long(option.name))
        .help(option.help.trim().to_owned() + &defaults(option))
        .help_heading(format!("{} (defaults come from the preset)", option.heading))
        .allow_negative_numbers(true)
        .value_parser(read);
    match option.allowed {
        Allowed::Switch => argument.num_args(0..=1).default_missing_value("true").value_name("BOOL"),
        Allowed::Whole(..) => argument.value_name("N"),
        Allowed::Number { .. } | Allowed::Above(..) | Allowed::Below(..) => argument.value_name("X"),
        Allowed::OneOf(_) => argument.value_name("NAME"),
        _ => argument.value_name(option.name.to_uppercase()),
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().fold(command, |command, option| command.arg(argument(option)))
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |option: &'static TrainOption| {
            matches.get_one::<toml::Value>(option.name).map(|value| (option, value.clone()))
        };
        Ok(Self(OPTIONS.iter().filter_map(given).collect()))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where an option's value was given.
#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Set,
    Flag,
}

/// Options with where each came from, for errors in the words of the command line.
#[derive(Debug, Default)]
pub struct Given {
    settings: Settings,
    origins: HashMap<&'static str, Origin>,
}

impl Given {
    /// What a run was started with.
    pub fn of_run(out: &Path) -> Result<Self> {
        let options = TrainOptions::of_run(out).map_err(|e| Self::default().told(e))?;
        Ok(Self { settings: Settings::all_of(&options), ..Self::default() })
    }

    /// Sets what a TOML file sets.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let text = crate::commands::read_text(path)?;
        let set = self.settings.add_toml(&text).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        self.origins.extend(set.into_iter().map(|option| (option.name, Origin::File(path.to_owned()))));
        Ok(())
    }

    /// Sets what `--set KEY=VALUE` sets.
    pub fn pair(&mut self, pair: &str) -> Result<()> {
        let (name, text) =
            pair.split_once('=').ok_or_else(|| anyhow!("--set {pair} has no '='; expected --set KEY=VALUE"))?;
        let option = self.settings.set_text(name.trim(), text.trim()).map_err(|e| anyhow!("--set {pair}: {e}"))?;
        self.origins.insert(option.name, Origin::Set);
        Ok(())
    }

    /// Sets what flags set.
    pub fn flags(&mut self, flags: &Flags) -> Result<()> {
        for (option, value) in &flags.0 {
            self.settings.set(option.name, value.clone()).map_err(|e| self.told(e))?;
            self.origins.insert(option.name, Origin::Flag);
        }
        Ok(())
    }

    /// What is worth a word although it is allowed.
    pub fn note(&self) -> Option<String> {
        self.settings.left_out()
    }

    /// The options.
    pub fn options(&self) -> Result<TrainOptions> {
        self.settings.options().map_err(|e| self.told(e))
    }

    /// An option as its giver named it.
    fn name(&self, option: &str) -> String {
        match self.origins.get(option) {
            Some(Origin::File(path)) => format!("{}: {option}", path.display()),
            Some(Origin::Set) => format!("--set {option}"),
            Some(Origin::Flag) | None => format!("--{}", long(option)),
        }
    }

    /// An error of the library in the words of the command line.
    pub fn told(&self, error: parloop_train::Error) -> anyhow::Error {
        use parloop_train::Error as E;
        match &error {
            E::Option { option, found, expected } => anyhow!("{} is {found}, expected {expected}", self.name(option)),
            E::Recipe { message } => anyhow!("{} is not usable: {message}", self.name("recipe")),
            E::Differs { option, now, then } => anyhow!(
                "{} is {now}, but {then} in the checkpoint to be resumed: leave it out or start a new run",
                self.name(option)
            ),
            E::TokenizerOfExamples { path } => anyhow!(
                "{} holds examples, which are no text to train a tokenizer on: give --tokenizer bytes or --tokenizer FILE, \
                 a tokenizer.json",
                path.display()
            ),
            E::Foreign { .. } => anyhow!("{error}: give another --out"),
            E::NoCheckpoint { .. } => anyhow!("{error}; start the run without --resume"),
            E::Occupied { out, newest } => anyhow!(
                "--out {} holds a run already ({}): go on with --resume or name another folder",
                out.display(),
                newest.display()
            ),
            E::Locked { out } => {
                anyhow!("another run is writing into --out {}: wait for it or name another folder", out.display())
            }
            E::Device { device, .. } => anyhow!("--{error}: rebuild with `--features {device}`"),
            _ => error.into(),
        }
    }
}
