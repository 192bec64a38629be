//! Sums of numbers by digits, and expressions.

use super::{Problem, Sizes};
use crate::rng::Rng;

/// Digits are 0 to 9.
const PLUS: u32 = 10;
const EQUALS: u32 = 11;

/// Numbers with their lowest digit first, `+` between them and `=` after the last, then the digits of the sum, lowest
/// first, of which each but the last is shown after it was asked for. Single: each column by itself, without carry.
pub(super) fn addition(sizes: Sizes, rng: &mut Rng) -> Problem {
    let mut problem = Problem::default();
    let mut columns = vec![0; sizes.length];
    for number in 0..sizes.steps {
        if number > 0 {
            problem.tell(PLUS);
        }
        for column in &mut columns {
            let digit = rng.below(10);
            *column += digit;
            problem.tell(digit as u32);
        }
    }
    let mut digits = Vec::new();
    if sizes.single {
        digits.extend(columns.iter().map(|sum| sum % 10));
    } else {
        let mut carry = 0;
        for sum in columns {
            digits.push((sum + carry) % 10);
            carry = (sum + carry) / 10;
        }
        // Up to 64 numbers carry at most 63.
        digits.extend([carry % 10, carry / 10]);
    }
    let mut shown = EQUALS;
    for (i, digit) in digits.into_iter().enumerate() {
        problem.ask(shown, digit as u32, if sizes.single { 1 } else { i + 1 });
        shown = digit as u32;
    }
    problem
}

/// Numbers of mano are 0 to 22, then `+`, `-` and `*`.
pub(super) const MODULUS: usize = 23;

/// An expression in prefix notation ("Physics of Language Models" 4.1, task Mano): where a part of it with at least one
/// operation ends, the value of the largest such part is asked for; its level is its number of operations.
pub(super) fn mano(sizes: Sizes, rng: &mut Rng) -> Problem {
    let operations = if sizes.single { 1 } else { 1 + rng.below(sizes.steps) };
    let mut problem = Problem::default();
    // What is still to be written: parts with so many operations. And what is half computed: operations that wait for
    // operands, with the first of them if it is known.
    let mut parts = vec![operations];
    let mut waiting: Vec<(usize, Option<(usize, usize)>)> = Vec::new();
    while let Some(operations) = parts.pop() {
        if operations > 0 {
            let operation = rng.below(3);
            let left = rng.below(operations);
            parts.extend([operations - 1 - left, left]);
            waiting.push((operation, None));
            problem.tell((MODULUS + operation) as u32);
            continue;
        }
        let number = rng.below(MODULUS);
        let (mut value, mut count) = (number, 0);
        while let Some((operation, first)) = waiting.pop() {
            let Some((left, operations)) = first else {
                waiting.push((operation, Some((value, count))));
                break;
            };
            value = match operation {
                0 => left + value,
                1 => left + MODULUS - value,
                _ => left * value,
            } % MODULUS;
            count += operations + 1;
        }
        match count {
            0 => problem.tell(number as u32),
            _ => problem.ask(number as u32, value as u32, count),
        }
    }
    problem
}
