//! Strongly connected components of a graph.

/// Returns the component of each node. `edges` has the nodes that each node leads to. Two nodes are in the same component if each leads to the
/// other.
///
/// This is Tarjan's algorithm ("Depth-First Search and Linear Graph Algorithms", 1972), without recursion: a long path takes no stack. It takes
/// time proportional to the number of nodes and edges.
pub(super) fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut search = Search {
        order: vec![UNSEEN; edges.len()],
        lowest: vec![0; edges.len()],
        component: vec![UNSEEN; edges.len()],
        seen: 0,
        open: Vec::new(),
    };
    for node in 0..edges.len() {
        if search.order[node] == UNSEEN {
            search.visit(node, edges);
        }
    }
    search.component
}

const UNSEEN: usize = usize::MAX;

/// A depth-first search.
struct Search {
    /// When each node was first seen.
    order: Vec<usize>,
    /// The earliest open node that each node leads to, by its `order`.
    lowest: Vec<usize>,
    /// The component of each node, by its first node.
    component: Vec<usize>,
    seen: usize,
    /// The nodes that were seen and whose component is not complete.
    open: Vec<usize>,
}

impl Search {
    fn visit(&mut self, root: usize, edges: &[Vec<usize>]) {
        self.enter(root);
        // The path to the current node, with how many edges of each node were followed.
        let mut path = vec![(root, 0)];
        while let Some((node, followed)) = path.last_mut() {
            let node = *node;
            let Some(next) = edges[node].get(*followed).copied() else {
                path.pop();
                self.leave(node);
                if let Some((before, _)) = path.last() {
                    self.lowest[*before] = self.lowest[*before].min(self.lowest[node]);
                }
                continue;
            };
            *followed += 1;
            if self.order[next] == UNSEEN {
                self.enter(next);
                path.push((next, 0));
            } else if self.component[next] == UNSEEN {
                self.lowest[node] = self.lowest[node].min(self.order[next]);
            }
        }
    }

    fn enter(&mut self, node: usize) {
        (self.order[node], self.lowest[node]) = (self.seen, self.seen);
        self.seen += 1;
        self.open.push(node);
    }

    /// Completes the component that begins with a node, if there is one.
    fn leave(&mut self, node: usize) {
        if self.lowest[node] != self.order[node] {
            return;
        }
        while let Some(member) = self.open.pop() {
            self.component[member] = node;
            if member == node {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether one node leads to another, by all paths.
    fn leads(edges: &[Vec<usize>], from: usize, to: usize) -> bool {
        let (mut seen, mut next) = (vec![false; edges.len()], vec![from]);
        while let Some(node) = next.pop() {
            if !std::mem::replace(&mut seen[node], true) {
                next.extend(&edges[node]);
            }
        }
        seen[to]
    }

    #[test]
    fn every_graph_of_four_nodes_has_the_components_that_its_paths_make() {
        for bits in 0..1_u32 << 16 {
            let has = |from: usize, to: usize| bits >> (4 * from + to) & 1 == 1;
            let edges: Vec<Vec<_>> =
                (0..4).map(|from| (0..4).filter(|to| has(from, *to)).collect()).collect();
            let components = components(&edges);
            for (one, other) in (0..4).flat_map(|one| (0..4).map(move |other| (one, other))) {
                let expected = leads(&edges, one, other) && leads(&edges, other, one);
                assert_eq!(components[one] == components[other], expected, "{one} {other} {edges:?}");
            }
        }
    }

    #[test]
    fn a_long_path_and_a_long_cycle_take_no_stack() {
        let length = 200_000;
        let mut edges: Vec<_> = (1..=length).map(|next| vec![next]).collect();
        edges.push(Vec::new());
        let path = components(&edges);
        assert!(path.iter().enumerate().all(|(node, component)| node == *component));
        edges[length].push(0);
        assert!(components(&edges).iter().all(|component| *component == 0));
    }
}
