//! How a model marks reasoning and calls of tools: found out from its chat template, so that what is asked of the model,
//! what is allowed and what is read are one spelling.

mod calls;
mod probe;

pub(crate) use calls::{Body, Calls, Tool};

use parloop_model::{ChatTemplate, Tokenizer};

/// Tags around reasoning that templates write or look for.
const THINKING: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
];

/// Tags around reasoning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thinking {
    pub open: String,
    pub close: String,
}

/// The habits of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub thinking: Option<Thinking>,
    pub calls: Option<Calls>,
    /// Tags that are special tokens: the text of an answer leaves them out.
    pub special: Vec<(u32, String)>,
}

impl Dialect {
    /// What a template shows.
    pub fn of(template: &ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let thinking = THINKING.iter().find(|(_, close)| template.mentions(close));
        let thinking = thinking.map(|(open, close)| Thinking { open: (*open).into(), close: (*close).into() });
        let calls = probe::calls(template);
        let mut tags = Vec::new();
        if let Some(Thinking { open, close }) = &thinking {
            tags.extend([open.clone(), close.clone()]);
        }
        if let Some(calls) = &calls {
            tags.push(calls.opening.clone());
            tags.extend(calls.closing.clone());
        }
        let id = |tag: String| Some((tokenizer.id(&tag).filter(|id| tokenizer.is_special(*id))?, tag));
        Self { thinking, calls, special: tags.into_iter().filter_map(id).collect() }
    }

    /// The tag that a special token is.
    pub fn special_tag(&self, id: u32) -> Option<&str> {
        self.special.iter().find(|(special, _)| *special == id).map(|(_, tag)| tag.as_str())
    }

    /// The special token that a tag is.
    pub fn special_id(&self, tag: &str) -> Option<u32> {
        self.special.iter().find(|(_, special)| special == tag).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parloop_model::ChatSource;

    fn dialect(template: &str) -> Dialect {
        let source = ChatSource { template: template.into(), tool_use: None, tokens: Default::default() };
        Dialect::of(&ChatTemplate::new(&source).unwrap(), &Tokenizer::Bytes)
    }

    /// The part of Qwen's templates that writes calls.
    const HERMES: &str = r#"{%- if tools %}{{- '<|im_start|>system\n<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{{- '</tools> return <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for tool_call in message.tool_calls %}{%- if (loop.first and message.content) or (not loop.first) %}{{- '\n' }}{%- endif %}
{%- set tool_call = tool_call.function %}
{{- '<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"#;

    /// The part of Qwen3-Coder's template that writes calls.
    const XML: &str = r#"{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.tool_calls %}{%- for tool_call in message.tool_calls %}{%- set tool_call = tool_call.function %}
{%- if loop.first %}{{- '<tool_call>\n<function=' + tool_call.name + '>\n' }}{%- else %}{{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }}{%- endif %}
{%- for name, value in tool_call.arguments | items %}{{- '<parameter=' + name + '>\n' }}
{{- (value | tojson | safe if value is mapping else value | string) }}{{- '\n</parameter>\n' }}{%- endfor %}
{{- '</function>\n</tool_call>' }}{%- endfor %}{%- else %}{{- message.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"#;

    /// The part of Mistral's templates that writes calls.
    const LIST: &str = r#"{%- for message in messages %}{%- if message.role == "user" %}{{- "[INST] " + message.content + "[/INST]" }}
{%- elif message.tool_calls %}{{- "[TOOL_CALLS] [" }}{%- for tool_call in message.tool_calls %}
{%- set out = tool_call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + tool_call.id + '"}' }}
{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]</s>" }}{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}"#;

    /// Llama 3.1: no tag at all.
    const BARE: &str = r#"{%- for message in messages %}{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if message.tool_calls %}{%- set call = message.tool_calls[0].function %}{{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}' }}
{%- else %}{{- message.content }}{%- endif %}{{- '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"#;

    #[test]
    fn calls_are_read_off_the_template() {
        let hermes = dialect(HERMES);
        let calls = hermes.calls.unwrap();
        assert_eq!((calls.opening.as_str(), calls.closing.as_deref()), ("<tool_call>", Some("</tool_call>")));
        assert_eq!((calls.before.as_str(), calls.after.as_str(), calls.between.as_str()), ("\n", "\n", "\n"));
        assert_eq!(calls.body, Body::default());
        assert_eq!(hermes.thinking.unwrap().open, "<think>");

        let calls = dialect(XML).calls.unwrap();
        assert_eq!((calls.opening.as_str(), calls.before.as_str(), calls.after.as_str()), ("<tool_call>", "\n", "\n"));
        assert_eq!((calls.closing.as_deref(), calls.between.as_str()), (Some("</tool_call>"), "\n"));
        let Body::Xml { head, opened, parameter, value, close, tail } = calls.body else { panic!("no XML") };
        assert_eq!([head, opened, parameter], ["<function=", ">\n", "<parameter="]);
        assert_eq!([value, close, tail], [">\n", "\n</parameter>\n", "</function>"]);

        let calls = dialect(LIST).calls.unwrap();
        assert_eq!((calls.opening.as_str(), calls.before.as_str(), calls.closing), ("[TOOL_CALLS]", " ", None));
        let Body::Json { list, head, middle, tail } = calls.body else { panic!("no JSON") };
        assert_eq!((list, head.as_str(), tail.as_str()), (true, "{\"name\": \"", "}"));
        assert_eq!(middle, "\", \"arguments\": ");

        let calls = dialect(BARE).calls.unwrap();
        assert_eq!((calls.opening.as_str(), calls.closing), ("", None));
        let Body::Json { list, middle, .. } = calls.body else { panic!("no JSON") };
        assert_eq!((list, middle.as_str()), (false, "\", \"parameters\": "));
    }

    #[test]
    fn a_template_without_calls_has_none() {
        let plain = dialect("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
        assert_eq!(plain, Dialect::default());
        // One that shows tools to the model but no calls.
        let shown = dialect("{{ tools | tojson }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
        assert_eq!(shown.calls, None);
    }
}
