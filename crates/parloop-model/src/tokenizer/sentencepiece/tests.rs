use super::*;
use crate::Tokenizer;

/// A model of the Python package `sentencepiece`, and what that package made of some hard texts
/// (`scripts/compare_sentencepiece.py`).
fn fixture(name: &str) -> (Vec<u8>, Vec<Case>) {
    let path = format!("{}/tests/sentencepiece/{name}", env!("CARGO_MANIFEST_DIR"));
    let cases = std::fs::read(format!("{path}.json")).unwrap();
    (std::fs::read(format!("{path}.model")).unwrap(), serde_json::from_slice(&cases).unwrap())
}

#[derive(serde::Deserialize)]
struct Case {
    input: String,
    ids: Vec<u32>,
    text: String,
}

fn tokenizer(bytes: &[u8], conventions: Conventions) -> Result<Tokenizer> {
    Tokenizer::from_pieces(Pieces::from_bytes(bytes)?, conventions)
}

#[test]
fn ids_and_text_are_those_of_the_library() {
    for name in ["bpe-bytes", "bpe-spaces", "bpe-unused", "unigram-bytes", "unigram-suffix", "unigram-nfkc"] {
        let (bytes, cases) = fixture(name);
        let pieces = Pieces::from_bytes(&bytes).unwrap();
        assert_eq!(Pieces::from_bytes(&pieces.to_bytes()).unwrap(), pieces, "{name}");
        let tokenizer = tokenizer(&bytes, Conventions::default()).unwrap();
        assert!(cases.len() > 60);
        for case in cases {
            assert_eq!(tokenizer.encode(&case.input).unwrap(), case.ids, "{name}: {:?}", case.input);
            let mut stream = tokenizer.stream();
            let mut text = String::new();
            for id in &case.ids {
                let more = stream.push(*id).unwrap();
                assert!(!more.contains('\u{FFFD}') || case.input.contains('\u{FFFD}'), "{name}: {:?}", case.input);
                text += &more;
            }
            assert_eq!(text + &stream.finish().unwrap(), case.text, "{name}: {:?}", case.input);
        }
    }
}

fn added(id: u32, text: &str) -> AddedToken {
    AddedToken { id, text: text.into(), special: true, lstrip: false, rstrip: false, single_word: false }
}

#[test]
fn added_tokens_are_cut_out_and_spaces_follow_the_conventions() {
    let (bytes, _) = fixture("bpe-bytes");
    let plain = tokenizer(&bytes, Conventions::default()).unwrap();
    let (dummy, bare) = (plain.encode("to").unwrap(), {
        let never = Conventions { space_prefix: SpacePrefix::Never, ..Conventions::default() };
        tokenizer(&bytes, never).unwrap().encode("to").unwrap()
    });
    assert_ne!(dummy, bare);
    let tokens = vec![added(1, "<s>"), added(900, "<|im_end|>"), AddedToken { rstrip: true, ..added(901, "<r>") }];
    for (prefix, start, after) in [
        (SpacePrefix::Model, &dummy, &dummy),
        (SpacePrefix::EveryFragment, &dummy, &dummy),
        (SpacePrefix::TextStart, &dummy, &bare),
        (SpacePrefix::Never, &bare, &bare),
    ] {
        let conventions = Conventions { added: tokens.clone(), add_bos: true, add_eos: true, space_prefix: prefix };
        let t = tokenizer(&bytes, conventions).unwrap();
        let joined = |parts: &[&[u32]]| parts.concat();
        let text = "to<|im_end|>to<s><r>  to";
        let expected = joined(&[start, &[900], after, &[1, 901], after]);
        assert_eq!(t.encode_bare(text).unwrap(), expected, "{prefix:?}");
        assert_eq!(t.encode(text).unwrap(), joined(&[&[1], &expected, &[2]]), "{prefix:?}");
        // After an added token nothing is the start of the text.
        assert_eq!(t.encode_bare("<s>to").unwrap(), joined(&[&[1], after]), "{prefix:?}");
        assert_eq!(t.vocab_size(), 902);
        assert!(t.is_special(900) && t.is_special(1) && !t.is_special(dummy[0]));
        assert_eq!((t.id("<r>"), t.token(901).as_deref()), (Some(901), Some("<r>")));
    }
}

#[test]
fn added_tokens_mind_their_neighbours() {
    let (bytes, _) = fixture("bpe-bytes");
    let tokens = vec![
        AddedToken { single_word: true, ..added(900, "end") },
        AddedToken { lstrip: true, special: false, ..added(901, "<l>") },
        added(902, "<l"),
    ];
    let t = tokenizer(&bytes, Conventions { added: tokens, ..Conventions::default() }).unwrap();
    assert!(t.encode("an end.").unwrap().contains(&900) && !t.encode("the ending").unwrap().contains(&900));
    assert_eq!(t.encode("  <l><l").unwrap(), [901, 902], "the longest wins, and takes the spaces before it");
    assert_eq!(t.decode(&[901, 902]).unwrap(), "<l>");
    assert!(t.decode(&[903]).unwrap_err().to_string().contains("903"));
}

#[test]
fn a_continuation_keeps_the_space_before_its_first_word() {
    for name in ["bpe-bytes", "unigram-nfkc"] {
        let t = tokenizer(&fixture(name).0, Conventions { add_bos: true, ..Conventions::default() }).unwrap();
        let ids = t.encode("to be or not").unwrap();
        for cut in 2..ids.len() {
            let mut stream = t.stream_after(&ids[..cut]).unwrap();
            let rest: String = ids[cut..].iter().map(|id| stream.push(*id).unwrap()).collect();
            assert_eq!(t.decode(&ids[..cut]).unwrap() + &rest, "to be or not");
        }
    }
}

#[test]
fn bytes_of_a_character_wait_for_the_rest() {
    let (bytes, _) = fixture("bpe-bytes");
    let t = tokenizer(&bytes, Conventions::default()).unwrap();
    let byte = |b: u8| t.id(&format!("<0x{b:02X}>")).unwrap();
    let mut stream = t.stream();
    let pushed: Vec<String> = [0xE4, 0xB8, 0x96, 0xE4, 0xB8, 0x41, 0xFF].map(|b| stream.push(byte(b)).unwrap()).into();
    // The library gives up one byte at a time.
    assert_eq!(pushed, ["", "", "世", "", "", "\u{FFFD}\u{FFFD}A", "\u{FFFD}"]);
    assert_eq!(stream.push(byte(0xE4)).unwrap() + &stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn impossible_models_are_refused_with_a_reason() {
    let good = Pieces::from_bytes(&fixture("bpe-bytes").0).unwrap();
    let reason = |change: &dyn Fn(&mut Pieces)| {
        let mut model = good.clone();
        change(&mut model);
        SentencePiece::new(model, Conventions::default()).err().unwrap().to_string()
    };
    assert!(reason(&|m| m.pieces[0].kind = PieceKind::Normal).contains("0 unknown pieces"));
    assert!(reason(&|m| m.pieces[1].kind = PieceKind::Unknown).contains("2 unknown pieces"));
    assert!(reason(&|m| m.pieces[300].text = m.pieces[301].text.clone()).contains("pieces 300 and 301"));
    assert!(reason(&|m| m.pieces[300].text.clear()).contains("piece 300 is empty"));
    assert!(reason(&|m| m.pieces[300].score = f32::NAN).contains("score NaN"));
    let letter = good.pieces.iter().position(|p| p.text == "<0x41>").unwrap();
    assert!(reason(&|m| m.pieces[letter].text = "<0xZZ>".into()).contains("<0x41>"));
    assert!(reason(&|m| m.normalizer.precompiled_charsmap.truncate(40)).contains("rules"));
    let long = [&[0; 4][..], "x".repeat(5000).as_bytes()].concat();
    assert!(reason(&|m| m.normalizer.precompiled_charsmap.clone_from(&long)).contains("5000 bytes"));
    let twice = Conventions { added: vec![added(900, "a"), added(901, "a")], ..Conventions::default() };
    assert!(SentencePiece::new(good.clone(), twice).err().unwrap().to_string().contains("twice"));
}

#[test]
fn no_broken_file_crashes() {
    let (bytes, cases) = fixture("unigram-bytes");
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut usable = 0;
    for round in 0..3000 {
        let mut broken = bytes.clone();
        match round % 3 {
            0 => broken.truncate(random(bytes.len())),
            // The normaliser's rules stand near the end.
            1 => {
                let at = bytes.len() - 1 - random(2000);
                broken[at] = random(256) as u8;
            }
            _ => (0..=random(4)).for_each(|_| broken[random(bytes.len())] = random(256) as u8),
        }
        if let Ok(t) = tokenizer(&broken, Conventions::default()) {
            usable += 1;
            let ids = t.encode(&cases[random(cases.len())].input).unwrap();
            t.decode(&ids).unwrap();
        }
    }
    assert!(usable > 100, "most changed models should load: {usable}");
    for bad in [&[0xFF; 20][..], &[0x0A, 0xFF, 0xFF, 0xFF, 0x7F], b"{}", &[0x0B]] {
        assert!(Pieces::from_bytes(bad).is_err() || tokenizer(bad, Conventions::default()).is_err());
    }
}
