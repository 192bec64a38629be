//! The scalar reference against the outside implementation.

use parloop_model::reference::Reference;
use parloop_testing::{GOLDENS, Golden, MOE_GOLDENS, assert_close};

#[test]
fn the_reference_reproduces_every_golden() {
    for name in GOLDENS.into_iter().chain(MOE_GOLDENS) {
        let golden = Golden::read(name);
        let output = Reference::new(&golden.checkpoint).unwrap().forward(&golden.ids).unwrap();
        assert_close(&format!("{name}: logits"), &output.logits.concat(), &golden.logits, 1e-4);
        assert_close(&format!("{name}: states"), &output.states.concat().concat(), &golden.states, 1e-4);
    }
}

#[test]
fn the_reference_refuses_what_it_cannot_compute() {
    let golden = Golden::read("plt2");
    let reference = Reference::new(&golden.checkpoint).unwrap();
    for (ids, word) in [(vec![], "at least one"), (vec![61], "61"), (vec![0; 513], "513")] {
        let message = reference.forward(&ids).err().unwrap().to_string();
        assert!(message.contains(word), "{message}");
    }
}
