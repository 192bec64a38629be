//! Results put in order: studies, in them tasks and sizes, in them arms, in them seeds.

use crate::results::{Ending, Row};
use crate::stats::{Paired, Spread};
use std::collections::{BTreeMap, BTreeSet};

/// All rows of an arm at one task and size.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    /// Its name.
    pub name: String,
    /// Place in the order in which arms first appear, which is the study's.
    pub index: usize,
    /// By seed, those that reached their end.
    pub rows: BTreeMap<u64, &'a Row>,
    /// Seeds that diverged.
    pub diverged: Vec<u64>,
}

impl Arm<'_> {
    /// What it reached, by seed.
    pub fn values(&self) -> BTreeMap<u64, f64> {
        self.rows.iter().filter_map(|(seed, row)| Some((*seed, row.measure()?.value))).collect()
    }

    /// Mean and spread of what it reached.
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(&self.values().into_values().collect::<Vec<_>>())
    }

    /// Any of its rows.
    pub fn row(&self) -> Option<&Row> {
        self.rows.values().next().copied()
    }
}

/// All arms at one task and size.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The task's label.
    pub task: String,
    /// The size's name.
    pub size: String,
    /// In the study's order.
    pub arms: Vec<Arm<'a>>,
}

impl<'a> Group<'a> {
    /// The arm of a name.
    pub fn arm(&self, name: &str) -> Option<&Arm<'a>> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// Name of the measure, and whether less of it is better.
    pub fn measure(&self) -> Option<(&'static str, bool)> {
        let measured = self.arms.iter().find_map(|arm| arm.row()?.measure())?;
        Some((measured.name, measured.less_is_better))
    }

    /// How much better `arm` is than `base`, over the seeds that both have; positive is better.
    pub fn gain(&self, arm: &str, base: &str) -> Option<Paired> {
        let (arm, base) = (self.arm(arm)?.values(), self.arm(base)?.values());
        let sign = if self.measure()?.1 { -1.0 } else { 1.0 };
        let differences: Vec<f64> =
            arm.iter().filter_map(|(seed, value)| Some(sign * (value - base.get(seed)?))).collect();
        Paired::of(&differences)
    }

    /// What it is called in headings.
    pub fn title(&self) -> String {
        match (self.task.as_str(), self.size.as_str()) {
            (task, "") => task.to_owned(),
            (task, size) => format!("{task}, {size}"),
        }
    }
}

/// All results of one study.
#[derive(Clone, Debug)]
pub struct Study<'a> {
    /// Its name.
    pub name: String,
    /// In the order of its results.
    pub groups: Vec<Group<'a>>,
    /// All rows.
    pub rows: Vec<&'a Row>,
}

impl Study<'_> {
    /// All seeds.
    pub fn seeds(&self) -> BTreeSet<u64> {
        self.rows.iter().map(|row| row.seed).collect()
    }

    /// Different values of a text of the rows, joined.
    pub fn all(&self, of: impl Fn(&Row) -> &str) -> String {
        let mut found: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !found.contains(&of(row)) {
                found.push(of(row));
            }
        }
        found.join("; ")
    }
}

/// Puts results in order. Of several results of one run the last counts.
pub fn studies(rows: &[Row]) -> Vec<Study<'_>> {
    let mut studies: Vec<Study<'_>> = Vec::new();
    for row in rows {
        let at = studies.iter().position(|s| s.name == row.study).unwrap_or_else(|| {
            studies.push(Study { name: row.study.clone(), groups: Vec::new(), rows: Vec::new() });
            studies.len() - 1
        });
        let study = &mut studies[at];
        study.rows.push(row);
        let at = study.groups.iter().position(|g| g.task == row.task && g.size == row.size).unwrap_or_else(|| {
            study.groups.push(Group { task: row.task.clone(), size: row.size.clone(), arms: Vec::new() });
            study.groups.len() - 1
        });
        let arms = &mut study.groups[at].arms;
        let at = arms.iter().position(|arm| arm.name == row.arm).unwrap_or_else(|| {
            let index = arms.len();
            arms.push(Arm { name: row.arm.clone(), index, rows: BTreeMap::new(), diverged: Vec::new() });
            index
        });
        match row.ending {
            Ending::Done => {
                arms[at].rows.insert(row.seed, row);
            }
            Ending::Diverged(_) => arms[at].diverged.push(row.seed),
        }
    }
    studies
}
