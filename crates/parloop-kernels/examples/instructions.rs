//! Runs one kernel a given number of times, for counting its instructions: `.ci/instructions`.
//!
//!     instructions KERNEL TIMES
//!
//! Kernels: `f32-1`, `bf16-2`, `q8-1`, ... (weight type and rows), `attend-R` (R rows over 500 keys).

use parloop_kernels::{
    Attend, Branch, Effect, Isa, KvPool, KvTiles, KvType, Op, Product, Projector, Spares, WeightType, Weights, attend,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, times] = &arguments[..] else { return Err("usage: instructions KERNEL TIMES".into()) };
    let (name, rows) = kernel.split_once('-').ok_or("a kernel is a name, a dash and a number of rows")?;
    let (rows, times): (usize, usize) = (rows.parse()?, times.parse()?);
    let mut on = Projector::new(Isa::chosen()?, 1);
    if name == "attend" {
        let (heads, groups, dim) = (8, 2, 64);
        let mut kv = KvTiles::cache(KvType::F32, groups, dim);
        kv.pretend(500, &mut Spares::new(&KvPool::unlimited()))?;
        let q = vec![0.1; rows * heads * dim];
        let mut out = q.clone();
        let row = Attend { global: Branch { kv: &kv, first: 0, last: 499 }, local: None };
        (0..times).for_each(|_| attend(&mut on, heads, &q, &vec![row; rows], &mut out));
    } else {
        let weights = Weights::random(name.parse::<WeightType>()?, 256, 512, 1)?;
        let x: Vec<f32> = (0..rows * 512).map(|i| (i % 13) as f32 - 6.0).collect();
        let mut out = vec![0.0; rows * 256];
        for _ in 0..times {
            let product = Product { weights: &weights, rows: 0..rows, effect: Effect::Store, out: &mut out };
            on.project(Op::Output, &x, 512, None, &mut [product]);
        }
    }
    Ok(())
}
