//! `log --graph`: one column for each line of history that is still open, newest commit first.

/// Draws commits as they come, each after all its descendants.
#[derive(Default)]
pub(super) struct Graph {
    /// The commit that each column leads to.
    columns: Vec<String>,
}

impl Graph {
    /// The lines for the next commit: its own, then one that shows columns opening or closing, if any do.
    pub(super) fn commit(&mut self, hash: &str, parents: &[String], text: &str) -> Vec<String> {
        let position = match self.columns.iter().position(|column| column == hash) {
            Some(position) => position,
            None => {
                self.columns.push(hash.to_owned());
                self.columns.len() - 1
            }
        };
        let mut lines =
            vec![format!("{} {text}", self.row(|column| if column == position { "*" } else { "|" }))];
        // Columns that lead to this commit end here, but for the first.
        let joining: Vec<usize> = (position + 1..self.columns.len())
            .filter(|&column| self.columns.get(column).is_some_and(|to| to == hash))
            .collect();
        if !joining.is_empty() {
            lines.insert(0, self.row(|column| if joining.contains(&column) { "/" } else { "|" }));
            for column in joining.into_iter().rev() {
                self.columns.remove(column);
            }
            if let Some(line) = lines.get_mut(1) {
                *line = format!("{} {text}", self.row(|column| if column == position { "*" } else { "|" }));
            }
        }
        match parents.split_first() {
            None => {
                self.columns.remove(position);
            }
            Some((first, others)) => {
                if let Some(column) = self.columns.get_mut(position) {
                    first.clone_into(column);
                }
                let open = self.columns.len();
                self.columns.extend(others.iter().cloned());
                if !others.is_empty() {
                    lines.push(self.row(|column| if column >= open { "\\" } else { "|" }));
                }
            }
        }
        lines
    }

    fn row(&self, mark: impl Fn(usize) -> &'static str) -> String {
        (0..self.columns.len()).map(mark).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_opens_a_column_that_its_base_closes() {
        let mut graph = Graph::default();
        let history: [(&str, &[&str]); 5] =
            [("m", &["a", "b"]), ("a", &["o"]), ("b", &["o"]), ("o", &["r"]), ("r", &[])];
        let lines: Vec<String> = history
            .iter()
            .flat_map(|(hash, parents)| {
                let parents: Vec<String> = parents.iter().map(|parent| (*parent).to_owned()).collect();
                graph.commit(hash, &parents, hash)
            })
            .collect();
        assert_eq!(lines, ["* m", "| \\", "* | a", "| * b", "| /", "* o", "* r"]);
    }
}
