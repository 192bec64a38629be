//! What a line of a conversation asks for.

use std::path::PathBuf;

pub const HELP: &str = "\
/reset             forget the conversation
/system TEXT       say this before the conversation, which begins anew; without TEXT, show it
/retry             drop the last answer and write another
/save FILE         keep the conversation in a file
/load FILE         go on with a conversation that was kept
/stats             what the conversation and the last answer took
/set NAME VALUE    change temp, top-k, top-p, min-p, repeat-penalty, seed or tokens; without both, show them
/help              show this
/bye               end, as do Ctrl-D, /exit and /quit
\"\"\"                begin and end a message of several lines; a line that ends in \\ goes on in the next
A message that begins with a slash is typed with a space before it.";

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Nothing,
    Say(String),
    Reset,
    System(Option<String>),
    Retry,
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    Set(Option<(String, String)>),
    Help,
    Bye,
    /// What is wrong with it.
    Wrong(String),
}

/// The words that begin with a slash, for completion.
pub const WORDS: [&str; 9] = ["/bye", "/help", "/load", "/reset", "/retry", "/save", "/set", "/stats", "/system"];

impl Command {
    pub fn parse(line: &str) -> Self {
        let text = line.trim();
        if text.is_empty() {
            return Self::Nothing;
        }
        if !line.starts_with('/') {
            return Self::Say(text.to_owned());
        }
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let file = |make: fn(PathBuf) -> Self| match rest {
            "" => Self::Wrong(format!("{word} needs the name of a file")),
            name => make(name.into()),
        };
        match word {
            "/help" | "/?" => Self::Help,
            "/bye" | "/exit" | "/quit" => Self::Bye,
            "/reset" | "/clear" => Self::Reset,
            "/retry" => Self::Retry,
            "/stats" => Self::Stats,
            "/system" => Self::System(Some(rest.to_owned()).filter(|text| !text.is_empty())),
            "/save" => file(Self::Save),
            "/load" => file(Self::Load),
            "/set" if rest.is_empty() => Self::Set(None),
            "/set" => match rest.split_once(char::is_whitespace) {
                Some((name, value)) => Self::Set(Some((name.to_owned(), value.trim().to_owned()))),
                None => Self::Wrong(format!("/set {rest} needs a value")),
            },
            _ => Self::Wrong(format!("{word} is no command: /help lists them; nothing was sent")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_a_command_and_an_unknown_word_is_neither() {
        assert_eq!(Command::parse("  hello there "), Command::Say("hello there".into()));
        assert_eq!(Command::parse(" /etc/passwd holds"), Command::Say("/etc/passwd holds".into()));
        assert_eq!(Command::parse("  "), Command::Nothing);
        for (line, word) in
            [("/hlep", "/hlep is no command"), ("/hlep me", "/hlep"), ("/save", "file"), ("/set x", "value")]
        {
            assert!(matches!(Command::parse(line), Command::Wrong(said) if said.contains(word)), "{line}");
        }
        for word in WORDS {
            assert!(!matches!(Command::parse(&format!("{word} a b")), Command::Wrong(_) | Command::Say(_)), "{word}");
            assert!(HELP.contains(word));
        }
        assert_eq!(Command::parse("/set temp  0.5"), Command::Set(Some(("temp".into(), "0.5".into()))));
        assert_eq!(Command::parse("/system Be brief."), Command::System(Some("Be brief.".into())));
    }
}
