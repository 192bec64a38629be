//! Gates and attention of every loop, layer and head, by the reference forward: slow, for short texts.

use crate::Result;
use parloop_model::reference::Reference;
use serde::{Deserialize, Serialize};

/// Means over the positions of a text; `[R][N][H]` each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// The gate of the global branch; absent where a loop has none.
    pub gate: Vec<Vec<Vec<Option<f64>>>>,
    /// Entropy of the weights of the global branch, in nats.
    pub entropy: Vec<Vec<Vec<f64>>>,
    /// Re-routing: half the sum of `|w^r - w^1|`, the share of the weight that looks elsewhere than loop 1's.
    pub rerouting: Vec<Vec<Vec<f64>>>,
    /// Diversity `[R][N]`: the same distance between two heads of a layer, averaged over pairs; 0 for one head.
    pub diversity: Vec<Vec<f64>>,
}

/// Runs the reference forward over a text.
///
/// # Errors
/// As [`Reference::forward`].
pub fn attention(reference: &Reference, [loops, layers, heads]: [usize; 3], ids: &[u32]) -> Result<Attention> {
    let cube = || vec![vec![vec![0.0; heads]; layers]; loops];
    let (mut gate, mut entropy, mut rerouting) = (cube(), cube(), cube());
    let mut gated = vec![vec![vec![false; heads]; layers]; loops];
    let mut diversity = vec![vec![0.0; layers]; loops];
    // Loop 1's weights by layer, position and head; and the current position's by head.
    let mut first: Vec<Vec<Vec<Vec<f32>>>> = vec![vec![Vec::new(); ids.len()]; layers];
    let mut here: Vec<Vec<f32>> = Vec::new();
    let share = 1.0 / ids.len().max(1) as f64;
    reference.forward_watched(ids, &mut |seen| {
        let (r, n, h) = (seen.r, seen.layer, seen.head);
        if let Some(g) = seen.gate {
            gate[r][n][h] += share * f64::from(g);
            gated[r][n][h] = true;
        }
        entropy[r][n][h] -=
            share * seen.weights.iter().map(|w| f64::from(*w)).filter(|w| *w > 0.0).map(|w| w * w.ln()).sum::<f64>();
        if r == 0 {
            first[n][seen.t].push(seen.weights.to_vec());
        } else {
            rerouting[r][n][h] += share * distance(seen.weights, &first[n][seen.t][h]);
        }
        if h == 0 {
            here.clear();
        }
        let pairs = (heads * heads.saturating_sub(1) / 2).max(1) as f64;
        diversity[r][n] += share * here.iter().map(|other| distance(seen.weights, other)).sum::<f64>() / pairs;
        here.push(seen.weights.to_vec());
    })?;
    let told = |r: usize, n: usize, h: usize| gated[r][n][h].then_some(gate[r][n][h]);
    let gate = (0..loops).map(|r| (0..layers).map(|n| (0..heads).map(|h| told(r, n, h)).collect()).collect()).collect();
    Ok(Attention { gate, entropy, rerouting, diversity })
}

/// Total variation.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    0.5 * a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum::<f64>()
}
