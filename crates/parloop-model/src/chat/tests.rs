use super::*;
use std::collections::BTreeMap;

fn source(template: &str) -> ChatSource {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(n, t)| (n.to_owned(), t.to_owned()));
    ChatSource { template: template.into(), tool_use: None, tokens: BTreeMap::from(tokens) }
}

fn rendered(template: &str, messages: &[Message]) -> Result<String> {
    let conversation = Conversation { messages: messages.to_vec(), ..Conversation::default() };
    ChatTemplate::new(&source(template))?.render(&conversation)
}

/// A rendering by Jinja2 (`scripts/expect_chat_templates.py`).
#[derive(Deserialize)]
struct Expected {
    template: String,
    name: String,
    conversation: Map<String, Value>,
    text: Option<String>,
    refused: Option<String>,
}

#[test]
fn templates_write_what_jinja2_writes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat");
    let rows: Vec<Expected> =
        serde_json::from_slice(&std::fs::read(format!("{folder}/expected.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for mut row in rows {
        let template = std::fs::read_to_string(format!("{folder}/{}.jinja", row.template)).unwrap();
        let mut take = |key| row.conversation.remove(key).unwrap_or_default();
        let conversation = Conversation {
            messages: serde_json::from_value(take("messages")).unwrap(),
            tools: serde_json::from_value(take("tools")).unwrap(),
            add_generation_prompt: take("add_generation_prompt") == Value::Bool(true),
            variables: row.conversation,
        };
        let ours = ChatTemplate::new(&source(&template)).unwrap().render_as_is(&conversation);
        let right = match (&row.text, &row.refused, &ours) {
            (Some(text), _, Ok(ours)) => ours == text,
            (None, Some(words), Err(e)) => e.to_string().ends_with(&format!("refuses the conversation: {words}")),
            // Where Python stumbles over a type it does not matter whether we do.
            (None, None, _) => true,
            _ => false,
        };
        if !right {
            wrong.push(format!(
                "{} on {}:\n{ours:?}\nexpected\n{:?}{:?}",
                row.template, row.name, row.text, row.refused
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn said(text: &str) -> Vec<Message> {
    vec![Message::new("user", text)]
}

#[test]
fn a_refusal_is_told_in_the_templates_words() {
    for template in [
        "{{ raise_exception('only users, please') }}",
        "{% macro m() %}{{ raise_exception('only users, please') }}{% endmacro %}{{ m() }}",
    ] {
        let message = rendered(template, &said("x")).unwrap_err().to_string();
        assert_eq!(message, "the model's chat template refuses the conversation: only users, please");
    }
}

fn start(template: &str) -> &str {
    &template[..template.len().min(200)]
}

/// [`rendered`], held to what a template may take. Instructions are counted by minijinja; what they do beyond its count
/// shows in what is allocated, or in the steps of [`what_a_loop_repeats_is_paid_each_time`].
fn bounded(template: &str, messages: &[Message]) -> Result<String> {
    let mut result = Ok(String::new());
    let used = allocation_counter::measure(|| result = rendered(template, messages));
    let name = start(template);
    assert!(used.count_total < 10_000_000, "{name}: {} allocations", used.count_total);
    assert!(used.bytes_total < 1 << 30, "{name}: {} bytes were allocated", used.bytes_total);
    assert!(used.bytes_max < 256 << 20, "{name}: {} bytes at once", used.bytes_max);
    result
}

#[test]
fn what_a_loop_repeats_is_paid_each_time() {
    // Each step handles some bytes or elements, of which a fuel pays for 64 or for one: before the 2 million are spent
    // no more than 128 million bytes, or 2 million elements, can have been handled.
    for (value, step, most) in [
        ("'x' * 10000000", "{% set x = ns.s[-1] %}", 13),
        ("'x' * 10000000", "{% set x = ns.s == ns.t %}", 7),
        ("'x' * 10000000", "{% set x = 'y' in ns.s %}", 13),
        ("'x' * 10000000", "{% set x = ns.s | length %}", 13),
        ("'x' * 10000000", "{% set x = ns.s.find('y') %}", 13),
        ("range(100000) | list", "{% set x = ns.s == ns.t %}", 11),
        ("range(100000) | list", "{% set x = 'y' in ns.s %}", 21),
        ("range(100000) | list", "{% set x = ns.s | chain(ns.t) %}", 11),
        ("range(100000) | list", "{% set x = ns.s + ns.t %}{% set x = x | string %}", 11),
    ] {
        let template = format!(
            "{{% set ns = namespace(s={value}, t={value}) %}}{{% for i in range(90000) %}}{{% set n = step() %}}{step}{{% endfor %}}"
        );
        let mut compiled = ChatTemplate::new(&source(&template)).unwrap();
        let steps = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = steps.clone();
        compiled.environment.add_function("step", move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        let message = compiled.render(&Conversation::default()).unwrap_err().to_string();
        assert!(message.contains("was stopped"), "{step}: {message}");
        let steps = steps.load(std::sync::atomic::Ordering::Relaxed);
        assert!((2..=most).contains(&steps), "{step} ran {steps} times");
    }
}

#[test]
fn a_template_without_end_or_bounds_is_stopped() {
    let hostile = [
        "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% for i in range(90000) %}{{ messages[0].content | upper | lower | replace('a', 'bb') }}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ 'x'.replace('', 'y' * 60000) | replace('', 'y' * 60000) | replace('', 'y' * 60000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ ('{:9999}' * 1000000).format(1) }}",
        "{{ ('{0}' * 1000000).format('x' * 1000000) }}",
        "{{ ('%(a)s' * 1000000) | format(a='x' * 1000000) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ ('x' * 1000000).join(['', ''] * 1) }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x\ny' | indent(10000000000) }}",
        "{{ [1] | tojson(indent=10000000000) | length }}{{ range(100000) | list | tojson(indent=10000000000) | length }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% include 'chat template' %}",
        "{% include '/etc/passwd' %}",
    ];
    for template in hostile {
        let result = bounded(template, &said(&"a".repeat(1000)));
        let size = result.as_ref().map_or(0, String::len);
        assert!(size < 1 << 20, "{template}: {size} bytes");
    }
    for template in &hostile[..5] {
        let message = rendered(template, &said("a")).unwrap_err().to_string();
        assert!(message.contains("was stopped") || message.contains("fails"), "{template}: {message}");
    }
    let message = rendered(hostile[0], &said("a")).unwrap_err().to_string();
    assert!(message.contains("was stopped"), "{message}");
}

#[test]
fn values_are_paid_with_all_that_hides_behind_them() {
    let grown = |start: &str, step: &str, times: usize| {
        format!("{{% set ns = namespace(s={start}, t={start}) %}}{{% for i in range({times}) %}}{step}{{% endfor %}}")
    };
    let double = "{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}";
    let shared = [
        "{{ ns.s | string | length }}",
        "{{ ns.s }}",
        "{{ (ns.s ~ 'a') | length }}",
        "{{ ns.s == ns.t }}",
        "{{ ns.s in 'abc' }}",
        "{{ ns.s is eq ns.t }}",
        "{{ 'x' is in ns.s }}",
        "{{ {ns.s: 1} | length }}",
        "{{ [ns.s, ns.t] | sort | length }}",
        "{{ [ns.s, ns.s] | unique | list | length }}",
        "{{ ','.join(ns.s) | length }}",
        "{{ '{}'.format(ns.s) | length }}",
        "{% filter replace('a', ns.s) %}a{% endfilter %}",
        "{% macro m(a=ns.s ~ '') %}{{ a }}{% endmacro %}{{ m() }}",
        "{% macro m(a) %}{{ caller(a) }}{% endmacro %}{% call(b) m(ns.s) %}{{ b }}{% endcall %}",
        "{{ messages[ns.s] }}",
    ];
    let mut hostile: Vec<String> = shared.iter().map(|end| grown("['x']", double, 60) + end).collect();
    hostile.extend([
        grown("['x']", "{% set ns.s = ns.s + ns.s %}", 60),
        grown("['x']", "{% set ns.s = ns.s | chain(ns.s) %}", 60),
        grown("['x']", "{% set ns.s = [ns.s] %}", 90_000),
        grown("['x']", "{% set ns.s = {'a': ns.s} %}", 90_000),
        grown("['x']", "{% set ns.s = namespace(a=ns.s) %}", 90_000),
        grown("['x']", "{% set ns.s = ns.s + [i] %}", 90_000),
        grown("'x' * 10000000", "{% set x = ns.s[-1] %}", 90_000),
        grown("'x' * 10000000", "{% set x = ns.s == ns.t %}", 90_000),
        "{% macro m(x, n) %}{% if n %}{{ m([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ m([1], 60) }}"
            .into(),
        "{% set ns = namespace(s=1) %}{% set ns.s = ns %}{{ ns }}".into(),
        "{{ [[[[1] * 10000] * 10000] * 10000] * 10000 }}".into(),
        "{{ 10000 * [10000 * [10000 * [1]]] }}".into(),
        "{{ debug() }}".into(),
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        format!("{{{{ messages{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ messages{} }}}}", "|list".repeat(100_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(50_000)),
    ]);
    for template in hostile {
        assert!(bounded(&template, &said("a")).is_err(), "{} was written", start(&template));
    }
}

#[test]
fn what_guards_a_template_changes_no_meaning() {
    for (template, text) in [
        ("{{ messages[0]['role'][0] }}{{ messages[-1].content[1:3] }}", "uel"),
        ("{% set x = [1, 2, 3][1:] %}{{ x }}{{ x[0] * 2 + x|length * -3 }}", "[2, 3]-2"),
        ("{{ 2 * 'ab' }}{{ -(messages|length) * 2 ** 2 }}", "abab-4"),
        ("{{ nothing is defined }}{{ messages[0].x is not defined }}{{ messages is iterable }}", "FalseTrueTrue"),
        ("{% for k, v in {'a': 1}.items() if v is eq 1 %}{{ k ~ v }}{{ loop.last }}{% endfor %}", "a1True"),
        ("{% raw %}{{ x[0] * y }}{% endraw %}{# {{ x * #}{{ '}}' ~ \"%}\" }}", "{{ x[0] * y }}}}%}"),
        ("{% macro m(a, b='z') %}{{ a ~ b }}{{ caller() }}{% endmacro %}{% call m('x') %}in{% endcall %}", "xzin"),
        ("{% set s | upper %}a{{ {'b': {'c': 'd'}}['b']['c'] }}{% endset %}{{ s }}", "AD"),
        ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ 3 is divisibleby 3 }}", "3True"),
        ("{% set one = 1 %}{{ one is in [one] and 1 not in [2] }}", "True"),
        ("{{ 7 % 4 }}{{ -7 % 4 }}{{ 7 % -4 }}{{ 2 * 7 % 4 }}{{ 7.5 % 2 }}", "31-121.5"),
        ("{% set n = 7 %}{{ n % 4 }}{{ (n + 1) % 3 }}{{ messages|length % 2 == 1 }}{{ -n % 4 }}", "32True1"),
        (
            "{% for m in messages %}{{ loop.index0 % 2 == 0 }}{% endfor %}{{ [1, 2] | chain([3]) | list }}",
            "True[1, 2, 3]",
        ),
        ("{{ {'a': 1} | chain({'b': 2}) | items | length }}{{ 'abc' | length }}{{ messages | count }}", "231"),
    ] {
        assert_eq!(rendered(template, &said("hello")).unwrap(), text, "{template}");
    }
    for template in ["{% include 'x' %}", "{{ 'a }}", "{{ (1 }}", "{# x", "{% raw %}x"] {
        assert!(rendered(template, &[]).unwrap_err().to_string().contains("cannot be read"), "{template}");
    }
}

#[test]
fn texts_have_pythons_formats_and_methods() {
    for (template, text) in [
        ("{{ '<%s>' % messages[0].role }}{{ '%s|%d' % ('a', 3) }}", "<user>a|3"),
        ("{{ 'a' + '%s' % 'b' ~ 'c' }}{{ ('%s' % 'x') | upper }}{{ '%%' % () }}", "abcX%"),
        ("{% set f = '%05.2f' %}{{ f % 3.14159 }}{{ '%(a)s-%(b)s' % {'a': 1, 'b': 2} }}{{ '%x' % 255 }}", "03.141-2ff"),
        ("{% set f = ['%s!'] %}{{ f[0] % messages[0]['content'] | upper }}{{ '%s' % [1, 2] }}", "HELLO![1, 2]"),
        (
            "{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b  c '.rsplit() }}{{ 'a b c'.rsplit(none, 1) }}",
            "['a,b', 'c']['a', 'b', 'c']['a b', 'c']",
        ),
        ("{{ 'a=b=c'.partition('=') | join('|') }} {{ 'a=b=c'.rpartition('=') | join('|') }}", "a|=|b=c a=b|=|c"),
        ("{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'a b, c_d!' | wordcount }}", "bcab3"),
        (
            "{{ 1e-5 | tojson }} {{ 1e16 | tojson }} {{ 1.5e300 | tojson }} {{ 0.0001 | tojson }}",
            "1e-05 1e+16 1.5e+300 0.0001",
        ),
        ("{{ 1e-5 }} {{ 1e16 }} {{ 1e-5 | string }} {{ '%s' % 1e-5 }} {{ 2.0 }}", "1e-05 1e+16 1e-05 1e-05 2.0"),
        ("a\r\n{% if true %}\r\nb\r{% endif %}\r\n", "a\nb\n"),
    ] {
        assert_eq!(rendered(template, &said("hello")).unwrap(), text, "{template}");
    }
    for template in ["{{ '%s %s' % 'a' }}", "{{ 'a' % }}", "{{ 'x'.rsplit('') }}", "{{ 5 % 0 }}", "{{ [] % 2 }}"] {
        assert!(rendered(template, &said("hello")).is_err(), "{template}");
    }
}

#[test]
fn long_conversations_are_written_whole() {
    let template = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat/llama3.jinja")).unwrap();
    let turn = |i: usize| Message::new(["user", "assistant"][i % 2], "word ".repeat(200));
    let messages: Vec<Message> = (0..2001).map(turn).collect();
    assert!(rendered(&template, &messages).unwrap().len() > 2_000_000);
}

#[test]
fn nonsense_is_refused_with_its_line() {
    let message = rendered("a\nb\n{% for %}", &[]).unwrap_err().to_string();
    assert!(message.contains("cannot be read") && message.contains("line 3"), "{message}");
    let message = rendered("a\n{{ messages[0].content.name.first }}", &said("x")).unwrap_err().to_string();
    assert!(message.contains("fails") && message.contains("line 2"), "{message}");
    for template in ["{{ messages.append(1) }}", "{{ 'x'.__class__.__mro__ }}", "{{ open('x') }}"] {
        assert!(rendered(template, &said("x")).is_err(), "{template}");
    }
}

#[test]
fn parts_of_text_become_text_where_the_template_takes_no_lists() {
    let parts = serde_json::json!({ "role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}] });
    let message: Message = serde_json::from_value(parts).unwrap();
    let plain = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    assert_eq!(rendered(plain, std::slice::from_ref(&message)).unwrap(), "<one two>");
    let listing = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}";
    assert_eq!(rendered(listing, &[message]).unwrap(), "<one ><two>");
    assert!(serde_json::from_value::<Message>(serde_json::json!({ "role": "user", "content": 5 })).is_err());
    assert!(serde_json::from_value::<Message>(serde_json::json!({ "content": "x" })).is_err());
}

#[test]
fn the_template_for_tools_is_taken_when_there_are_tools() {
    let both = ChatSource { tool_use: Some("tools".into()), ..source("plain") };
    let template = ChatTemplate::new(&both).unwrap();
    let mut conversation = Conversation { messages: said("x"), ..Conversation::default() };
    assert_eq!(template.render(&conversation).unwrap(), "plain");
    conversation.tools = Some(Vec::new());
    assert_eq!(template.render(&conversation).unwrap(), "tools");
}

#[test]
fn today_is_a_date() {
    let text = rendered("{{ strftime_now('%Y-%m-%d') }}", &[]).unwrap();
    assert!(text.len() == 10 && text.starts_with("20"), "{text}");
    assert!(rendered("{{ strftime_now('%Q%!') }}", &[]).is_err());
}

#[test]
fn a_folders_template_comes_from_its_file_or_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let read = |config: Value| ChatSource::read(folder.path(), config.as_object().unwrap());
    let tokens = serde_json::json!({ "bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null });
    let with = |template: Value| {
        let mut config = tokens.clone();
        config["chat_template"] = template;
        config
    };
    assert_eq!(read(tokens.clone()).unwrap(), None);
    let one = read(with("text".into())).unwrap().unwrap();
    assert_eq!((one.template.as_str(), one.tool_use.as_deref()), ("text", None));
    assert_eq!(
        one.tokens.into_iter().collect::<Vec<_>>(),
        [("bos_token".into(), "<b>".into()), ("eos_token".into(), "<e>".into())]
    );
    let named = serde_json::json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    let two = read(with(named)).unwrap().unwrap();
    assert_eq!((two.template.as_str(), two.tool_use.as_deref()), ("d", Some("t")));
    for bad in [serde_json::json!(5), serde_json::json!([{"name": "other", "template": "x"}]), serde_json::json!([7])] {
        assert!(read(with(bad)).unwrap_err().to_string().contains("chat_template"));
    }
    std::fs::write(folder.path().join("chat_template.jinja"), "from the file").unwrap();
    assert_eq!(read(with("text".into())).unwrap().unwrap().template, "from the file");
}

#[test]
fn no_changed_template_crashes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat");
    let mut state = 3u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut worked = 0;
    for name in ["llama3", "mistral", "qwen3", "features", "deepseek"] {
        let text: Vec<char> = std::fs::read_to_string(format!("{folder}/{name}.jinja")).unwrap().chars().collect();
        for _ in 0..150 {
            let mut changed = text.clone();
            for _ in 0..=random(3) {
                let (from, to, length) = (random(changed.len()), random(changed.len()), random(40));
                let piece: Vec<char> = changed[from..(from + length).min(changed.len())].to_vec();
                let end = (to + random(8)).min(changed.len());
                changed.splice(to..end, piece);
            }
            worked += usize::from(rendered(&changed.into_iter().collect::<String>(), &said("Hello")).is_ok());
        }
    }
    assert!(worked > 20, "{worked}");
}
