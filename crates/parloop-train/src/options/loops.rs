//! Recipes as schedules: how many loops a step has, and where learned scales begin.

use super::{ScalesChoice, TrainOptions};
use crate::{Error, Result};
use parloop_eval::Rng;
use parloop_model::Recipe;
use parloop_model::recipe::MAX_LOOPS;

/// The purpose of the draw of loops.
const LOOPS: u64 = 0x100b;

impl TrainOptions {
    /// Checks the options of loops against the recipe and each other.
    pub(super) fn check_loops(&self, recipe: &Recipe) -> Result<()> {
        let stages = stages(&self.loops_schedule)?;
        if stages.last().is_some_and(|(count, _)| *count != recipe.count) {
            let expected = format!("a schedule that ends with the {} loops of the recipe", recipe.count);
            return Err(Error::option("loops_schedule", quoted(&self.loops_schedule), expected));
        }
        let drawn = range(&self.random_loops)?;
        if drawn.is_some() && (recipe.shift || !stages.is_empty()) {
            let expected = if recipe.shift {
                "nothing, for a recipe whose loops are shifted: its loops have places of their own"
            } else {
                "nothing, with `loops_schedule`"
            };
            return Err(Error::option("random_loops", quoted(&self.random_loops), expected));
        }
        let name = || format!("\"{}\"", self.scales.name());
        if self.scales != ScalesChoice::Fixed && self.scale_warmup > 0 {
            return Err(Error::option("scales", name(), "fixed with `scale_warmup`, which sets them step by step"));
        }
        if self.scales == ScalesChoice::Cold && recipe.embedding_scale.is_none() {
            let expected = "fixed or learned: without embedding_scale later loops would begin with nothing";
            return Err(Error::option("scales", name(), expected));
        }
        Ok(())
    }

    /// The recipe that a model has once `step` steps are taken and another is to come: loops by the schedule, and
    /// while scales warm up later loops begin with `embedding_scale` 1 and `hidden_scale` 0, so that each repeats
    /// loop 1, and go to the recipe's in a straight line.
    pub(crate) fn recipe_at(&self, recipe: &Recipe, step: usize) -> Recipe {
        let mut recipe = recipe.clone();
        if step < self.scale_warmup {
            let share = step as f32 / self.scale_warmup as f32;
            recipe.hidden_scale *= share;
            recipe.embedding_scale = recipe.embedding_scale.map(|scale| 1.0 + share * (scale - 1.0));
        }
        let stages = stages(&self.loops_schedule).unwrap_or_default();
        if let Some((count, _)) = stages.into_iter().rev().find(|(_, from)| *from <= step) {
            recipe.count = count;
        }
        recipe
    }

    /// The recipe that step `step` (0-based) trains: [`Self::recipe_at`] with loops drawn by (seed, step), if they are.
    pub(crate) fn recipe_of_step(&self, recipe: &Recipe, step: usize) -> Recipe {
        let mut recipe = self.recipe_at(recipe, step);
        if let Ok(Some((low, high))) = range(&self.random_loops) {
            recipe.count = low + Rng::new(self.seed, LOOPS, step as u64).below(high - low + 1);
        }
        recipe
    }

    /// The recipe with the scales that a new model begins with.
    pub(crate) fn with_first_scales(&self, mut recipe: Recipe) -> Recipe {
        if self.scales == ScalesChoice::Cold {
            (recipe.embedding_scale, recipe.hidden_scale) = (Some(1.0), 0.0);
        }
        recipe
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// `R:step,...` as pairs, the first at step 0, steps rising.
fn stages(text: &str) -> Result<Vec<(usize, usize)>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let pair = |part: &str| -> Option<(usize, usize)> {
        let (count, step) = part.split_once(':')?;
        Some((count.trim().parse().ok()?, step.trim().parse().ok()?))
    };
    let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
    let good = |pairs: &Vec<(usize, usize)>| {
        pairs[0].1 == 0
            && pairs.windows(2).all(|two| two[0].1 < two[1].1)
            && pairs.iter().all(|(count, _)| (1..=MAX_LOOPS).contains(count))
    };
    pairs.filter(good).ok_or_else(|| {
        let expected = "pairs LOOPS:STEP from step 0 on, steps rising, such as 1:0,2:2000";
        Error::option("loops_schedule", quoted(text), expected)
    })
}

/// `a-b` with 1 <= a <= b.
fn range(text: &str) -> Result<Option<(usize, usize)>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| (1..=MAX_LOOPS).contains(n));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(Some((low, high))),
        _ => {
            Err(Error::option("random_loops", quoted(text), format!("two numbers from 1 to {MAX_LOOPS}, such as 1-4")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_follow_their_schedule() {
        let options = TrainOptions { loops_schedule: "1:0, 2:10,3:20".into(), ..TrainOptions::default() };
        options.check_loops(&Recipe::plt(3)).unwrap();
        let at = |step| options.recipe_of_step(&Recipe::plt(3), step).count;
        assert_eq!([0, 9, 10, 19, 20, 999].map(at), [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn loops_are_drawn_by_step_and_nothing_else() {
        let options = TrainOptions { random_loops: "2-4".into(), ..TrainOptions::default() };
        let recipe = Recipe::vanilla_loop(4);
        options.check_loops(&recipe).unwrap();
        let draw = |step| options.recipe_of_step(&recipe, step).count;
        let all: Vec<usize> = (0..300).map(draw).collect();
        assert_eq!(all, (0..300).map(draw).collect::<Vec<_>>());
        assert!([2, 3, 4].iter().all(|r| all.iter().filter(|x| *x == r).count() > 60), "{all:?}");
        assert_eq!(options.recipe_at(&recipe, 7).count, 4, "what is saved has the recipe's own number");
    }

    #[test]
    fn scales_go_from_the_embedding_alone_to_the_recipe() {
        let options = TrainOptions { scale_warmup: 4, ..TrainOptions::default() };
        let recipe = Recipe::plt(2);
        let at = |step| options.recipe_at(&recipe, step);
        assert_eq!((at(0).embedding_scale, at(0).hidden_scale), (Some(1.0), 0.0));
        assert_eq!(at(2).hidden_scale, recipe.hidden_scale / 2.0);
        assert_eq!((at(4), at(9)), (recipe.clone(), recipe.clone()));
    }
}
