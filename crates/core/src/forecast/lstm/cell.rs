//! One layer of long short-term memory with a linear output, and back-propagation through time.
//!
//! Hochreiter and Schmidhuber 1997; the forget gate is that of Gers, Schmidhuber and Cummins 2000.

use crate::forecast::linear::dot;

/// The inputs of each step.
pub(super) const INPUTS: usize = 4;

/// The cells.
pub(super) const CELLS: usize = 12;

/// The weights of one gate of one cell: inputs, the layer's own outputs, bias.
const FAN_IN: usize = INPUTS + CELLS + 1;

const GATES: usize = 4;
const GATE_WEIGHTS: usize = GATES * CELLS * FAN_IN;

/// All weights: gates, then the output with its bias.
pub(super) const WEIGHTS: usize = GATE_WEIGHTS + CELLS + 1;

/// What the layer remembers between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    output: [f64; CELLS],
    memory: [f64; CELLS],
}

/// What a step leaves for going back through it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace {
    inputs: [f64; FAN_IN],
    before: [f64; CELLS],
    /// Input, forget, output, candidate.
    gates: [[f64; CELLS]; GATES],
    memory: [f64; CELLS],
    output: [f64; CELLS],
}

/// The inputs of a gate: of the step, of the layer, and 1 for the bias.
fn gather(inputs: &[f64; INPUTS], state: &State) -> [f64; FAN_IN] {
    let mut all = [1.0; FAN_IN];
    let values = inputs.iter().chain(&state.output);
    all.iter_mut()
        .zip(values)
        .for_each(|(slot, value)| *slot = *value);
    all
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The next value for these inputs, and what is needed to go back.
pub(super) fn step(weights: &[f64], inputs: &[f64; INPUTS], state: &mut State) -> (f64, Trace) {
    let gathered = gather(inputs, state);
    let mut gates = [[0.0; CELLS]; GATES];
    let mut rows = weights.chunks_exact(FAN_IN);
    for (number, gate) in gates.iter_mut().enumerate() {
        for value in gate.iter_mut() {
            let row = rows.next().unwrap_or_default();
            let sum = dot(row, &gathered);
            *value = if number + 1 == GATES {
                sum.tanh()
            } else {
                sigmoid(sum)
            };
        }
    }
    let before = state.memory;
    let [input, forget, output, candidate] = &gates;
    let memories = state.memory.iter_mut().zip(&mut state.output);
    for (index, (memory, out)) in memories.enumerate() {
        let of = |gate: &[f64; CELLS]| gate.get(index).copied().unwrap_or(0.0);
        *memory = of(forget) * *memory + of(input) * of(candidate);
        *out = of(output) * memory.tanh();
    }
    let trace = Trace {
        inputs: gathered,
        before,
        gates,
        memory: state.memory,
        output: state.output,
    };
    (predicted(weights, &state.output), trace)
}

fn predicted(weights: &[f64], output: &[f64; CELLS]) -> f64 {
    let last = weights.get(GATE_WEIGHTS..).unwrap_or_default();
    dot(last, output) + last.last().copied().unwrap_or(0.0)
}

/// Adds to `gradient` that of ½·Σ (prediction − target)², given the differences at each step of a sequence.
pub(super) fn back(weights: &[f64], traces: &[Trace], differences: &[f64], gradient: &mut [f64]) {
    let mut into_output = [0.0; CELLS];
    let mut into_memory = [0.0; CELLS];
    for (trace, difference) in traces.iter().zip(differences).rev() {
        let (gate_gradient, last) = gradient.split_at_mut(GATE_WEIGHTS);
        let ones = trace.output.iter().chain(std::iter::once(&1.0));
        last.iter_mut()
            .zip(ones)
            .for_each(|(slot, out)| *slot += difference * out);
        let readout = weights.get(GATE_WEIGHTS..).unwrap_or_default();
        into_output
            .iter_mut()
            .zip(readout)
            .for_each(|(slot, w)| *slot += difference * w);
        let into_gates = through_cell(trace, &into_output, &mut into_memory);
        into_output = [0.0; CELLS];
        let rows = weights
            .chunks_exact(FAN_IN)
            .zip(gate_gradient.chunks_exact_mut(FAN_IN));
        for ((row, slots), into) in rows.zip(into_gates.iter().flatten()) {
            slots
                .iter_mut()
                .zip(&trace.inputs)
                .for_each(|(slot, x)| *slot += into * x);
            let own = row.iter().skip(INPUTS);
            into_output
                .iter_mut()
                .zip(own)
                .for_each(|(slot, w)| *slot += into * w);
        }
    }
}

/// From the gradient of a step's outputs and memories to that of its gates; `into_memory` becomes that of
/// the memories before.
fn through_cell(
    trace: &Trace,
    into_output: &[f64; CELLS],
    into_memory: &mut [f64; CELLS],
) -> [[f64; CELLS]; GATES] {
    let mut into = [[0.0; CELLS]; GATES];
    let [by_input, by_forget, by_output, by_candidate] = &mut into;
    let [input, forget, output, candidate] = &trace.gates;
    let cells = by_input
        .iter_mut()
        .zip(by_forget)
        .zip(by_output)
        .zip(by_candidate)
        .zip(into_memory)
        .enumerate();
    for (index, ((((by_i, by_f), by_o), by_c), memory_slot)) in cells {
        let at = |values: &[f64; CELLS]| values.get(index).copied().unwrap_or(0.0);
        let (i, f, o, c) = (at(input), at(forget), at(output), at(candidate));
        let squashed = at(&trace.memory).tanh();
        let of_output = at(into_output);
        let of_memory = *memory_slot + of_output * o * (1.0 - squashed * squashed);
        *by_i = of_memory * c * i * (1.0 - i);
        *by_f = of_memory * at(&trace.before) * f * (1.0 - f);
        *by_o = of_output * squashed * o * (1.0 - o);
        *by_c = of_memory * i * (1.0 - c * c);
        *memory_slot = of_memory * f;
    }
    into
}

/// Weights to begin with, the same each time: small, and gates that do not forget (Jozefowicz et al. 2015).
pub(super) fn initial() -> Vec<f64> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
    };
    let reach = 2.0 / (FAN_IN as f64).sqrt();
    let mut weights: Vec<f64> = (0..WEIGHTS).map(|_| reach * uniform()).collect();
    let forget = CELLS * FAN_IN..2 * CELLS * FAN_IN;
    let biases = weights
        .get_mut(forget)
        .unwrap_or_default()
        .chunks_exact_mut(FAN_IN);
    biases
        .filter_map(<[f64]>::last_mut)
        .for_each(|bias| *bias = 1.0);
    // At first the output is what it is added to.
    let readout = weights.get_mut(GATE_WEIGHTS..).unwrap_or_default();
    readout.iter_mut().for_each(|w| *w *= 0.1);
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence() -> Vec<([f64; INPUTS], f64)> {
        (0..6)
            .map(|t| {
                (
                    [0.1 * f64::from(t), 0.5, -0.2, 0.3],
                    (f64::from(t) * 0.7).sin(),
                )
            })
            .collect()
    }

    fn loss(weights: &[f64]) -> f64 {
        let mut state = State::default();
        let one = |(inputs, target): &([f64; INPUTS], f64)| {
            (step(weights, inputs, &mut state).0 - target).powi(2)
        };
        0.5 * sequence().iter().map(one).sum::<f64>()
    }

    #[test]
    fn the_gradient_through_time_is_that_of_the_loss() {
        let weights = initial();
        let mut state = State::default();
        let ran: Vec<(f64, Trace)> = sequence()
            .iter()
            .map(|(inputs, _)| step(&weights, inputs, &mut state))
            .collect();
        let differences: Vec<f64> = ran
            .iter()
            .zip(sequence())
            .map(|((p, _), (_, t))| p - t)
            .collect();
        let traces: Vec<Trace> = ran.into_iter().map(|(_, trace)| trace).collect();
        let mut gradient = vec![0.0; WEIGHTS];
        back(&weights, &traces, &differences, &mut gradient);
        for index in (0..WEIGHTS).step_by(7) {
            let shifted = |by: f64| {
                let mut moved = weights.clone();
                moved[index] += by;
                loss(&moved)
            };
            let numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
            assert!(
                (numeric - gradient[index]).abs() < 1e-7,
                "{index}: {numeric}, {}",
                gradient[index]
            );
        }
    }
}
