//! Ridge regression by normal equations: small (tens of coefficients), many times over.
//!
//! Own code because it is two short functions: a matrix library would be handed rows that do not exist as a
//! matrix, and must not be allowed to spread over threads.

/// The rows that are gathered before the sums are touched: the sums are much larger than the registers, and are
/// read and written once for all of them.
const GATHERED: usize = 4;

/// A regression that rows are added to. Coefficient 0 is the intercept, which is not shrunk.
#[derive(Debug, Clone)]
pub(super) struct Regression {
    /// The features, the intercept among them.
    size: usize,
    /// Lower triangle of the sum of w·x·xᵀ, by rows.
    gram: Vec<f64>,
    /// The sum of w·x·y.
    moments: Vec<f64>,
    rows: usize,
    /// The rows that are not in the sums yet, times the root of their weights; those still missing are zeros.
    gathered: [Vec<f64>; GATHERED],
}

impl Regression {
    /// For rows of `features` features beside the intercept.
    pub(super) fn new(features: usize) -> Self {
        let size = features + 1;
        Self {
            size,
            gram: vec![0.0; size * size],
            moments: vec![0.0; size],
            rows: 0,
            gathered: std::array::from_fn(|_| vec![0.0; size]),
        }
    }

    /// Adds a row: `features` begins with 1 for the intercept.
    pub(super) fn add(&mut self, features: &[f64], target: f64, weight: f64) {
        debug_assert_eq!(features.len(), self.size);
        let (lane, root) = (self.rows % GATHERED, weight.sqrt());
        for (moment, x) in self.moments.iter_mut().zip(features) {
            *moment += weight * x * target;
        }
        if let Some(row) = self.gathered.get_mut(lane) {
            for (slot, x) in row.iter_mut().zip(features) {
                *slot = root * x;
            }
        }
        self.rows += 1;
        if lane + 1 == GATHERED {
            self.sum_up();
        }
    }

    /// Adds the gathered rows to the sums.
    fn sum_up(&mut self) {
        let [a, b, c, d] = &self.gathered;
        let columns = a.iter().zip(b).zip(c).zip(d);
        let rows = self.gram.chunks_exact_mut(self.size);
        for (i, (row, (((a_i, b_i), c_i), d_i))) in rows.zip(columns.clone()).enumerate() {
            let sums = row.iter_mut().take(i + 1);
            for (sum, (((a_j, b_j), c_j), d_j)) in sums.zip(columns.clone()) {
                *sum += a_i * a_j + b_i * b_j + c_i * c_j + d_i * d_j;
            }
        }
        for row in &mut self.gathered {
            row.fill(0.0);
        }
    }

    /// The coefficients that minimise the squared error + `ridge` × the mean of the diagonal × their
    /// squared distance from `prior`; `None` if the equations have no finite solution.
    pub(super) fn solve(&mut self, ridge: f64, prior: &[f64]) -> Option<Vec<f64>> {
        self.sum_up();
        let n = self.size;
        let diagonal: f64 = (1..n).filter_map(|i| self.gram.get(i * n + i)).sum();
        let shrink = ridge * diagonal / n.max(2) as f64 + f64::MIN_POSITIVE.sqrt();
        let mut matrix = self.gram.clone();
        let mut right = self.moments.clone();
        for i in 0..n {
            let amount = if i == 0 {
                1e-12 * matrix.first()?.max(1e-12)
            } else {
                shrink
            };
            *matrix.get_mut(i * n + i)? += amount;
            *right.get_mut(i)? += amount * prior.get(i).copied().unwrap_or(0.0);
        }
        solve_cholesky(&mut matrix, &mut right, n)?;
        right.iter().all(|c| c.is_finite()).then_some(right)
    }
}

/// Solves A·x = b in place for a positive definite A given by its lower triangle; `None` if it is not.
/// Golub and Van Loan, *Matrix Computations*, section 4.2.
fn solve_cholesky(matrix: &mut [f64], right: &mut [f64], n: usize) -> Option<()> {
    for i in 0..n {
        for j in 0..=i {
            let (row_i, row_j) = (matrix.get(i * n..i * n + j)?, matrix.get(j * n..j * n + j)?);
            let known = dot(row_i, row_j);
            let rest = matrix.get(i * n + j)? - known;
            let value = if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / matrix.get(j * n + j)?
            };
            *matrix.get_mut(i * n + j)? = value;
        }
    }
    for i in 0..n {
        let known = dot(matrix.get(i * n..i * n + i)?, right.get(..i)?);
        let value = (right.get(i)? - known) / matrix.get(i * n + i)?;
        *right.get_mut(i)? = value;
    }
    for i in (0..n).rev() {
        let mut rest = *right.get(i)?;
        for j in i + 1..n {
            rest -= matrix.get(j * n + i)? * right.get(j)?;
        }
        *right.get_mut(i)? = rest / matrix.get(i * n + i)?;
    }
    Some(())
}

/// The scalar product of the common length, in several sums: one alone would wait for each addition.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let common = a.len().min(b.len());
    let (a, b) = (a.get(..common).unwrap_or(a), b.get(..common).unwrap_or(b));
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f64 = rest.map(|(x, y)| x * y).sum();
    let mut sums = [0.0; LANES];
    for (a, b) in a.zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_relation_is_found() {
        let mut regression = Regression::new(2);
        for i in 0..50_u32 {
            let (a, b) = (f64::from(i % 7), f64::from(i * i % 11));
            regression.add(&[1.0, a, b], 3.0 + 2.0 * a - 0.5 * b, 1.0);
        }
        let found = regression.solve(0.0, &[]).unwrap();
        for (coefficient, truth) in found.iter().zip([3.0, 2.0, -0.5]) {
            assert!((coefficient - truth).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn shrinking_pulls_towards_the_prior_and_survives_equal_features() {
        let mut regression = Regression::new(2);
        for i in 0..50_u32 {
            let a = f64::from(i % 7);
            regression.add(&[1.0, a, a], a, 1.0);
        }
        let even = regression.solve(1e-6, &[]).unwrap();
        assert!(
            (even[1] - 0.5).abs() < 1e-3 && (even[2] - 0.5).abs() < 1e-3,
            "{even:?}"
        );
        let drawn = regression.solve(1e6, &[0.0, 0.9, 0.1]).unwrap();
        assert!((drawn[1] - 0.9).abs() < 1e-3, "{drawn:?}");
    }

    #[test]
    fn what_has_no_finite_solution_gives_none() {
        let mut regression = Regression::new(1);
        regression.add(&[1.0, f64::NAN], 1.0, 1.0);
        assert_eq!(regression.solve(0.1, &[]), None);
        assert!(
            Regression::new(3)
                .solve(0.0, &[])
                .is_none_or(|c| c.iter().all(|c| *c == 0.0))
        );
    }
}
