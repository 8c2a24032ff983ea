//! Medians and the spread of rounds.

/// Median, least and greatest of some values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// Half of the values are less.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// The spread of `values`, of which some may be infinite, but those that are no number do
/// not count; `None` if there are none.
pub fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.retain(|v| !v.is_nan());
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    Some(Spread { median, min, max })
}

/// The arithmetic mean; `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "a handful of values")]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(vec![4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(spread(vec![f64::NAN]), None);
        // Something by nothing is not left out: it would be the best of all rounds.
        assert_eq!(
            spread(vec![1.0, f64::INFINITY, 2.0]).map(|s| (s.median, s.max)),
            Some((2.0, f64::INFINITY))
        );
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
    }
}
