//! A mixture of experts: rows are routed, stand together by expert, and all experts that any row took are products of one
//! call, so that the threads share one list of tasks however few rows there are.
//!
//! The results of a row's experts are added in the order of the experts, so a row's bits do not depend on its company.

use super::sized;
use crate::device::{Pass, Routed};
use parloop_kernels::experts::{Picked, combine};
use parloop_kernels::ops::{sigmoid, swiglu_safe};
use parloop_kernels::{Effect, Norm, Op, Product, Projector, Weights};
use parloop_model::experts::Space;
use parloop_model::layer::{Expert, Experts};
use std::ops::Range;

/// Where the rows of a layer go, and buffers that live from pass to pass.
#[derive(Default)]
pub struct Routes {
    logits: Vec<f32>,
    gates: Vec<f32>,
    space: Space,
    /// `[rows][k]`, the experts of each row and their weights.
    chosen: Vec<u16>,
    weights: Vec<f32>,
    /// `[rows][k]`, where each row's result of each expert lies.
    places: Vec<u32>,
    /// The row at each place; behind them all rows once more, for a shared expert.
    picked: Vec<u32>,
    /// Experts that any row took, and their places.
    taken: Vec<(usize, Range<usize>)>,
    inner: Vec<f32>,
    second: Vec<f32>,
    results: Vec<f32>,
    sums: Vec<f32>,
}

impl Routes {
    /// What the experts of layer `n` give its rows `[rows][d]`, after `norm`.
    pub fn results(
        &mut self,
        host: &mut Projector,
        pass: &mut Pass<'_, '_>,
        parts: &Experts<Weights, Vec<f32>>,
        norm: Norm<'_>,
        n: usize,
    ) -> &[f32] {
        let (d, rows) = (pass.model.config().hidden_size, pass.rows.len());
        self.route(host, pass, parts, norm, n);
        pass.read_experts(self.taken.len());
        let places = self.places.len();
        // A shared expert is one more, of which every row has a place behind the others.
        let shared = parts.shared.as_ref().map(|shared| (shared, places..places + rows));
        let routed = self.taken.iter().map(|(e, places)| (&parts.experts[*e], places.clone()));
        let all: Vec<(&Expert<Weights>, Range<usize>)> = routed.chain(shared.clone()).collect();
        let Self { picked, inner, second, results, .. } = self;

        let len = all.iter().map(|(expert, places)| expert.gate_proj.outputs() * places.len()).sum();
        let inner = sized(inner, len);
        let x = (&pass.x[..rows * d], &picked[..]);
        if all.iter().all(|(expert, _)| expert.gate_proj.kind() == expert.up_proj.kind()) {
            let mut products =
                Parts(inner).of(&all, |expert| &expert.gate_proj, |expert| Effect::SwiGlu(&expert.up_proj));
            host.project_picked(Op::FeedForwardIn, x, d, Some(norm), &mut products);
        } else {
            let second = sized(second, len);
            let mut products = Parts(inner).of(&all, |expert| &expert.gate_proj, |_| Effect::Store);
            products.extend(Parts(second).of(&all, |expert| &expert.up_proj, |_| Effect::Store));
            host.project_picked(Op::FeedForwardIn, x, d, Some(norm), &mut products);
            swiglu_safe(host, inner, second);
        }

        // Results lie by place, the shared expert's last. It is in the same call where it is as wide as the others.
        let results = sized(results, (picked.len()) * d);
        let width = parts.experts.first().map_or(0, |expert| expert.down_proj.inputs());
        let down = |expert: &Expert<Weights>| expert.down_proj.inputs();
        let together = all.iter().filter(|(expert, _)| down(expert) == width).count();
        let (routed, apart) = all.split_at(together);
        let held = routed.last().map_or(0, |(_, places)| places.end);
        let (x, rest) = inner.split_at(held * width);
        let (out, rest_out) = results.split_at_mut(held * d);
        let mut products = Parts(out).of(routed, |expert| &expert.down_proj, |_| Effect::Store);
        host.project(Op::FeedForwardOut, x, width, None, &mut products);
        if let [(expert, _)] = apart {
            let product = Product { weights: &expert.down_proj, rows: 0..rows, effect: Effect::Store, out: rest_out };
            host.project(Op::FeedForwardOut, rest, down(expert), None, &mut [product]);
        }

        let began = host.profile.start();
        let (routed, last) = results.split_at(places * d);
        let gates = parts.shared_gate.as_ref().map(|_| &self.gates[..rows]);
        let shared = shared.map(|_| (last, gates));
        let picked = Picked { results: routed, places: &self.places, weights: &self.weights, shared };
        let sums = sized(&mut self.sums, rows * d);
        combine(host, picked, d, sums);
        host.profile.add(Op::Combine, began, 0);
        sums
    }

    /// Chooses every row's experts and finds its places.
    fn route(
        &mut self,
        host: &mut Projector,
        pass: &mut Pass<'_, '_>,
        parts: &Experts<Weights, Vec<f32>>,
        norm: Norm<'_>,
        n: usize,
    ) {
        let (d, rows, count) = (pass.model.config().hidden_size, pass.rows.len(), parts.experts.len());
        let top_k = pass.model.config().moe.as_ref().map_or(0, |moe| moe.top_k);
        let (logits, gates) = (sized(&mut self.logits, rows * count), sized(&mut self.gates, rows));
        let router = Product { weights: &parts.router, rows: 0..rows, effect: Effect::Store, out: logits };
        let gate = parts.shared_gate.as_ref();
        let gate = gate.map(|weights| Product { weights, rows: 0..rows, effect: Effect::Store, out: gates });
        let mut products: Vec<Product<'_>> = [router].into_iter().chain(gate).collect();
        host.project(Op::Router, &pass.x[..rows * d], d, Some(norm), &mut products);
        self.gates[..rows].iter_mut().for_each(|g| *g = sigmoid(*g));

        let began = host.profile.start();
        self.chosen.resize(rows * top_k, 0);
        self.weights.resize(rows * top_k, 0.0);
        let each = self.chosen.chunks_exact_mut(top_k).zip(self.weights.chunks_exact_mut(top_k));
        for ((i, (experts, weights)), logits) in each.enumerate().zip(self.logits.chunks_exact(count)) {
            let mut to = Routed { experts, weights, space: &mut self.space };
            pass.route(i, n, logits, parts.choice_bias.as_deref(), &mut to);
        }
        // Places in the order of the experts, and of the rows within each.
        let mut ends = vec![0u32; count];
        self.chosen.iter().for_each(|e| ends[usize::from(*e)] += 1);
        self.taken.clear();
        let mut first = 0;
        for (e, end) in ends.iter_mut().enumerate() {
            let places = first..first + *end as usize;
            *end = first as u32;
            first = places.end;
            if !places.is_empty() {
                self.taken.push((e, places));
            }
        }
        self.places.clear();
        self.picked.resize(first + if parts.shared.is_some() { rows } else { 0 }, 0);
        for (i, e) in self.chosen.iter().enumerate() {
            let place = &mut ends[usize::from(*e)];
            self.picked[*place as usize] = (i / top_k) as u32;
            self.places.push(*place);
            *place += 1;
        }
        self.picked[first..].iter_mut().zip(0..).for_each(|(place, row)| *place = row);
        host.profile.add(Op::Router, began, 0);
    }
}

/// A buffer that is handed out in parts, one after the other.
struct Parts<'a>(&'a mut [f32]);

impl<'a> Parts<'a> {
    /// A product for every expert and its places.
    fn of(
        mut self,
        all: &[(&'a Expert<Weights>, Range<usize>)],
        weights: impl Fn(&'a Expert<Weights>) -> &'a Weights,
        effect: impl Fn(&'a Expert<Weights>) -> Effect<'a>,
    ) -> Vec<Product<'a>> {
        let product = |(expert, places): &(&'a Expert<Weights>, Range<usize>)| {
            let weights = weights(expert);
            let (out, rest) = std::mem::take(&mut self.0).split_at_mut(weights.outputs() * places.len());
            self.0 = rest;
            Product { weights, rows: places.clone(), effect: effect(expert), out }
        };
        all.iter().map(product).collect()
    }
}
