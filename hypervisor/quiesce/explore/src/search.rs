//! Walks everything that can be reached, breadth first, and checks P1 to P6.
//!
//! stateright checks what holds in each state. P1 is about what can follow: whether the
//! machine can come to rest from every state, without the world's help. So this keeps the
//! graph, and walks it backwards from the states at rest along every step that is not the
//! world's. A state that this does not reach is stuck: in a deadlock, or in a loop without
//! a way out. A CPU that waits has no step (see [`Machine::after`]), so waiting for ever is
//! a deadlock here. With every CPU going on at its own pace, a machine that can always come
//! to rest does.
//!
//! P2 to P6 are checked on the way, for the shortest trace.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};

use ahash::RandomState;
use stateright::Model;

use crate::model::{Action, Machine, State};
use crate::properties::{P1, at_rest};

/// What a search found.
pub struct Found {
    /// How many states can be reached; up to the breach, if that ended the search.
    pub states: usize,
    /// How many of them are at rest.
    pub at_rest: usize,
    /// The property that does not hold, and a shortest way to where it does not. For P1
    /// to a state with no next step, if there is any.
    pub breach: Option<(&'static str, Vec<Action>)>,
}

/// Walks everything that can be reached, or up to a breach of one of these properties.
pub fn search<const N: usize>(machine: &Machine<N>, properties: &[&str]) -> Found {
    let checked: Vec<_> = machine
        .properties()
        .into_iter()
        .filter(|property| properties.contains(&property.name))
        .collect();
    let mut graph = Graph::new();
    let mut frontier = VecDeque::new();
    for state in machine.init_states() {
        frontier.push_back((graph.add(&state, 0, None).0, state));
    }
    let mut actions = Vec::new();
    while let Some((from, state)) = frontier.pop_front() {
        if let Some(broken) = checked.iter().find(|one| !(one.condition)(machine, &state)) {
            return graph.found(Some((broken.name, from)));
        }
        let mut is_end = true;
        machine.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = machine.after(&state, action) else {
                continue;
            };
            let (to, is_new) = graph.add(&next, from, Some(action));
            if is_new {
                frontier.push_back((to, next));
            }
            if !action.is_the_worlds() {
                is_end = false;
                graph.steps.push((to, from));
            }
        }
        let node = &mut graph.nodes[from as usize];
        node.at_rest = at_rest(&state);
        node.is_end = is_end;
    }
    let stuck = if properties.contains(&P1) {
        graph.stuck()
    } else {
        None
    };
    graph.found(stuck.map(|node| (P1, node)))
}

/// The states, by number, in the order in which they were found.
struct Graph {
    numbers: HashMap<u64, u32, RandomState>,
    hash: RandomState,
    nodes: Vec<Node>,
    /// Steps that are not the world's: to and from.
    steps: Vec<(u32, u32)>,
}

struct Node {
    /// Where it was reached from first.
    from: u32,
    by: Option<Action>,
    at_rest: bool,
    /// No step leads on but the world's.
    is_end: bool,
}

impl Graph {
    fn new() -> Self {
        // The same numbers in each run.
        let hash = RandomState::with_seeds(1, 2, 3, 4);
        Self {
            numbers: HashMap::with_hasher(hash.clone()),
            hash,
            nodes: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// The number of a state, and whether it is new.
    fn add<const N: usize>(
        &mut self,
        state: &State<N>,
        from: u32,
        by: Option<Action>,
    ) -> (u32, bool) {
        match self.numbers.entry(self.hash.hash_one(state)) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(new) => {
                let number = self.nodes.len() as u32;
                self.nodes.push(Node {
                    from,
                    by,
                    at_rest: false,
                    is_end: true,
                });
                (*new.insert(number), true)
            }
        }
    }

    /// The first state from which no rest can be reached; one with no next step if there
    /// is any.
    fn stuck(&mut self) -> Option<u32> {
        self.steps.sort_unstable();
        let mut can_rest: Vec<bool> = self.nodes.iter().map(|node| node.at_rest).collect();
        let mut work: Vec<u32> = (0..)
            .zip(&can_rest)
            .filter(|one| *one.1)
            .map(|one| one.0)
            .collect();
        while let Some(to) = work.pop() {
            let first = self.steps.partition_point(|step| step.0 < to);
            for &(_, from) in self.steps[first..].iter().take_while(|step| step.0 == to) {
                if !core::mem::replace(&mut can_rest[from as usize], true) {
                    work.push(from);
                }
            }
        }
        let stuck = || (0..).zip(&can_rest).filter(|one| !one.1).map(|one| one.0);
        stuck()
            .find(|&number| self.nodes[number as usize].is_end)
            .or_else(|| stuck().next())
    }

    fn found(&self, breach: Option<(&'static str, u32)>) -> Found {
        Found {
            states: self.nodes.len(),
            at_rest: self.nodes.iter().filter(|node| node.at_rest).count(),
            breach: breach.map(|(property, number)| (property, self.way_to(number))),
        }
    }

    fn way_to(&self, mut number: u32) -> Vec<Action> {
        let mut way = Vec::new();
        while let Some(action) = self.nodes[number as usize].by {
            way.push(action);
            number = self.nodes[number as usize].from;
        }
        way.reverse();
        way
    }
}
