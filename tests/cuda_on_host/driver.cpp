// Every kernel on small data, for the sanitizers: each array is exactly as large as it must be. What is computed is
// held to the reference elsewhere.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../../csrc/ops/binary.h"
#include "../../csrc/ops/continuous.h"
#include "../../csrc/ops/discrete.h"
#include "../../csrc/ops/discretised.h"
#include "../../csrc/ops/schedules.h"

namespace {

using namespace bfn;

constexpr int64_t kSeed = 1234567890123;
std::vector<std::unique_ptr<char[]>> memory;

template <class S>
S* array(int64_t count, double scale = 1) {
  memory.push_back(std::make_unique<char[]>(std::max<int64_t>(1, count * sizeof(S))));
  S* data = reinterpret_cast<S*>(memory.back().get());
  for (int64_t i = 0; i < count; ++i) data[i] = static_cast<S>(scale * ((i * 7919 % 200) / 100.0 - 1));
  return data;
}

constexpr DType type_of(float) { return DType::kFloat; }
constexpr DType type_of(double) { return DType::kDouble; }
constexpr DType type_of(int64_t) { return DType::kInt64; }
constexpr DType type_of(int32_t) { return DType::kInt32; }
constexpr DType type_of(uint8_t) { return DType::kUInt8; }

template <class S>
View dense(int64_t count, double scale = 1) {
  View view;
  view.data = array<S>(count, scale);
  view.dtype = type_of(S{});
  view.dims = 1;
  view.size[0] = count;
  view.stride[0] = 1;
  return view;
}

// Half precision by its bits; 0x3C00 and 0x3F80 are ones.
View narrow(int64_t count, DType dtype) {
  View view = dense<float>((count + 1) / 2);
  for (int64_t i = 0; i < count; ++i) static_cast<uint16_t*>(view.data)[i] = dtype == DType::kHalf ? 0x3C00 : 0x3F80;
  view.dtype = dtype;
  view.size[0] = count;
  return view;
}

template <class T>
View strided(int64_t rows, int64_t columns) {
  View view = dense<T>(2 * rows * columns);
  view.dims = 2;
  view.size[0] = rows;
  view.size[1] = columns;
  view.stride[0] = 2 * columns;
  view.stride[1] = 2;
  return view;
}

// One number for each row of `length`.
template <class T>
View per_row(int64_t rows, int64_t length, T value) {
  View view = dense<T>(rows);
  for (int64_t i = 0; i < rows; ++i) static_cast<T*>(view.data)[i] = value;
  view.dims = 2;
  view.size[0] = rows;
  view.size[1] = length;
  view.stride[0] = 1;
  view.stride[1] = 0;
  return view;
}

View mask_of(int64_t count) {
  View view = dense<uint8_t>(count);
  for (int64_t i = 0; i < count; ++i) static_cast<uint8_t*>(view.data)[i] = i % 3 != 0;
  return view;
}

template <class Class = int64_t>
View classes(int64_t count, int64_t num_classes) {
  View view = dense<Class>(count);
  // with some that are out of range, which must be looked up nowhere
  for (int64_t i = 0; i < count; ++i) static_cast<Class*>(view.data)[i] = i % 11 == 10 ? 100 : i * 31 % num_classes;
  return view;
}

Noise seeded(Stream stream) {
  Noise noise;
  noise.seed = &kSeed;
  noise.stream = stream;
  return noise;
}

template <class T>
LossTarget target(int64_t batch, int64_t per_batch, Reduction reduction, bool masked) {
  const int64_t count = batch * per_batch;
  const int64_t losses = reduction == Reduction::kNone ? count : reduction == Reduction::kBatch ? batch : 1;
  LossTarget to{reduction, batch, per_batch, masked ? mask_of(count) : View{}, dense<T>(losses), dense<T>(1)};
  to.workspace = array<double>(loss_workspace(to) / static_cast<int64_t>(sizeof(double)));
  return to;
}

template <class T, class F>
void each_target(int64_t batch, int64_t per_batch, F&& f) {
  f(target<T>(batch, per_batch, Reduction::kNone, false));
  f(target<T>(batch, per_batch, Reduction::kBatch, true));
  f(target<T>(batch, per_batch, Reduction::kSum, false));
  f(target<T>(batch, per_batch, Reduction::kMean, true));
}

// `make(count)`: a view of data.
template <class T, class F>
void run_continuous(int64_t batch, int64_t row, F&& make) {
  const int64_t count = batch * row;
  const View a = per_row<T>(batch, row, T(0.5)), b = per_row<T>(batch, row, T(0.7));
  gaussian_step<T>({count, make(count), a, make(count), b, a, seeded(kSender), make(count)});
  gaussian_step<T>({count, make(count), a, {}, {}, {}, {}, make(count)});
  const Prediction from{make(count), make(count), a, b, -1, 1};
  continuous_update<T>({count, from, {a, b, a}, make(count), mask_of(count), seeded(kSender), make(count)});
  predict_data<T>({count, from, make(count)});
  predict_data_backward<T>({count, make(count), from, make(count), make(count)});
  each_target<T>(batch, row, [&](const LossTarget& to) {
    squared_loss<T>({make(count), from, a, {}, dense<T>(count), dense<T>(count), dense<T>(count), to});
  });
}

constexpr OutputLimits kLimits{1e-3, 10, 10};

template <class T, class F>
void run_discretised(int64_t batch, int64_t row, F&& make) {
  const int64_t count = batch * row;
  const View a = per_row<T>(batch, row, T(1.5)), b = per_row<T>(batch, row, T(0.4));
  const NetworkOutput from{
      Parametrisation::kNoise, 1, make(count), make(count), {}, make(count), a, b, 16, true, kLimits};
  NetworkOutput direct{
      Parametrisation::kDirect, 1, make(count), per_row<T>(batch, row, T(0.3)), {}, {}, {}, {}, 16, false};
  const auto gradients = [&] { return NetworkGradients{dense<T>(count), dense<T>(count), {}}; };
  output_std<T>({count,
                 {Parametrisation::kNoise, 1, {}, make(count), {}, {}, a, b, 16, true, kLimits},
                 make(count),
                 dense<T>(count)});
  expected_value<T>({count, direct, make(count), gradients()});
  for (const auto choice : {Choice::kSample, Choice::kMode, Choice::kMean}) {
    const Sent sent{choice, make(count), mask_of(count), seeded(kOutput)};
    choose<T>({count, direct, sent, {}, make(count)});
    discretised_update<T>({count, from, {a, b, a}, sent, {}, seeded(kSender), make(count)});
  }
  const double nodes[3] = {-1.7, 0, 1.7}, weights[3] = {0.2, 0.6, 0.2};
  each_target<T>(batch, row, [&](const LossTarget& to) {
    discretised_loss<T>({make(count), from, a, {}, 0, {}, gradients(), to});
    discretised_loss<T>({make(count), direct, {}, {}, 0, {}, gradients(), to});
  });
  const LossTarget to = target<T>(batch, row, Reduction::kMean, true);
  discretised_loss<T>({make(count), from, {}, b, 5, {0, 3, nodes, weights, {}}, gradients(), to});
  discretised_loss<T>({make(count), direct, {}, a, 5, {2, 0, nullptr, nullptr, seeded(kMonteCarlo)}, {}, to});
}

// Several blocks, which sort their variables by several rules.
void run_expected_values(int64_t count) {
  const View a = per_row<float>(1, count, 1.5f), b = per_row<float>(1, count, 0.4f);
  const auto data = [count] { return dense<float>(count); };
  const NetworkOutput from{Parametrisation::kNoise, 1, data(), data(), {}, data(), a, b, 16, true, kLimits};
  expected_value<float>({count, from, data(), {data(), data(), {}}});
  each_target<float>(1, count, [&](const LossTarget& to) {
    discretised_loss<float>({data(), from, a, {}, 0, {}, {data(), data(), {}}, to});
  });
}

template <class T, class F>
void run_mixtures(int64_t batch, int64_t row, int64_t components, F&& make) {
  const int64_t count = batch * row, all = count * components;
  const View a = per_row<T>(batch, row, T(1.5)), b = per_row<T>(batch, row, T(0.4));
  const NetworkOutput from{
      Parametrisation::kNoise, components, make(all), make(all), make(all), make(count), a, b, 16, true, kLimits};
  const auto gradients = [&] { return NetworkGradients{dense<T>(all), dense<T>(all), dense<T>(all)}; };
  expected_value<T>({count, from, make(count), gradients()});
  for (const auto choice : {Choice::kSample, Choice::kMode, Choice::kMean}) {
    const Sent sent{choice, make(count), mask_of(count), seeded(kOutput)};
    choose<T>({count, from, sent, seeded(kComponent), make(count)});
    discretised_update<T>({count, from, {a, b, a}, sent, seeded(kComponent), seeded(kSender), make(count)});
  }
  each_target<T>(batch, row, [&](const LossTarget& to) {
    discretised_loss<T>({make(count), from, a, {}, 0, {}, gradients(), to});
    discretised_loss<T>({make(count), from, {}, {}, 0, {}, gradients(), to});
  });
  const LossTarget to = target<T>(batch, row, Reduction::kMean, true);
  discretised_loss<T>({make(count), from, {}, b, 5, {9, 0, nullptr, nullptr, seeded(kMonteCarlo)}, gradients(), to});
}

template <class T, class F>
void run_discrete(int64_t batch, int64_t length, int64_t num_classes, F&& make) {
  const int64_t rows = batch * length, count = rows * num_classes;
  const View x = classes(rows, num_classes), alpha = per_row<T>(batch, length, T(0.1));
  discrete_theta<T>({rows, num_classes, make(count), make(count)});
  for (const bool probs : {false, true}) {
    discrete_sender<T>({rows, num_classes, x, alpha, alpha, probs, seeded(kSender), make(count)});
  }
  for (const auto choice : {Choice::kSample, Choice::kMode, Choice::kMean}) {
    const Sent sent{choice, x, mask_of(rows), seeded(kClass)};
    discrete_update<T>({rows,
                        num_classes,
                        make(count),
                        make(count),
                        {{}, alpha, alpha},
                        {},
                        sent,
                        seeded(kSender),
                        make(count),
                        choice == Choice::kSample ? make(count) : View{}});
  }
  const View stats = dense<T>(rows * kRowStats);
  each_target<T>(batch, length, [&](const LossTarget& to) {
    discrete_loss<T>({num_classes, x, make(count), alpha, stats, {}, to});
    discrete_loss<T>({num_classes, x, make(count), {}, {}, {}, to});
  });
  discrete_loss_backward<T>(
      {rows, num_classes, dense<T>(rows), x, make(count), alpha, mask_of(rows), stats, make(count)});
  const double nodes[2] = {-1, 1}, weights[2] = {0.5, 0.5};
  const LossTarget to = target<T>(batch, length, Reduction::kMean, true);
  discrete_nstep<T>(
      {num_classes, 5, Receiver::kFactorised, {0, 2, nodes, weights, {}}, x, make(count), alpha, dense<T>(count), to});
  const Draws drawn{2, 0, nullptr, nullptr, seeded(kMonteCarlo)};
  for (const auto receiver : {Receiver::kJoint, Receiver::kFactorised}) {
    discrete_nstep<T>({num_classes, 5, receiver, drawn, x, make(count), alpha, dense<T>(count), to});
  }
}

template <class Class, class T, class F>
void run_binary(int64_t batch, int64_t row, F&& make) {
  const int64_t count = batch * row;
  const View x = classes<Class>(count, 2), alpha = per_row<T>(batch, row, T(0.1)),
             large = per_row<T>(batch, row, T(80));
  for (const bool probs : {false, true}) {
    binary_sender<T>({count, x, alpha, alpha, probs, seeded(kSender), make(count)});
  }
  for (const auto choice : {Choice::kSample, Choice::kMode, Choice::kMean}) {
    const Sent sent{choice, x, mask_of(count), seeded(kClass)};
    binary_update<T>(
        {count, make(count), make(count), {{}, alpha, alpha}, {}, sent, seeded(kSender), make(count), make(count)});
  }
  const double nodes[2] = {-1, 1}, weights[2] = {0.5, 0.5};
  const Draws drawn{2, 0, nullptr, nullptr, seeded(kMonteCarlo)};
  each_target<T>(batch, row, [&](const LossTarget& to) {
    binary_loss<T>({x, make(count), alpha, dense<T>(count), to});
    binary_loss<T>({x, make(count), {}, {}, to});
    binary_nstep<T>({5, Receiver::kFactorised, {0, 2, nodes, weights, {}}, x, make(count), large, dense<T>(count), to});
    binary_nstep<T>({5, Receiver::kJoint, drawn, x, make(count), alpha, {}, to});
  });
}

// With values that are out of range.
template <class T>
void run_rows(int64_t count) {
  const Schedule exponential{ScheduleKind::kExponentialVariance, 0.1, 0}, none{ScheduleKind::kNone, 0, 0};
  row_scalars<T>({count,
                  dense<float>(count),
                  {},
                  {exponential, 20, 0.5, 1e-6},
                  2,
                  {RowScalar::kGamma, RowScalar::kRate},
                  {dense<T>(count), dense<T>(count)}});
  row_scalars<T>({count,
                  strided<double>(1, count),
                  dense<float>(count),
                  {none, 0, 1, 0},
                  1,
                  {RowScalar::kKeep},
                  {dense<T>(count)}});
}

template <class T, class F>
void run_all(const char* name, F&& make) {
  std::printf("%s\n", name);
  for (const int64_t row : {1, 7, 40}) {
    run_continuous<T>(3, row, make);
    run_discretised<T>(3, row, make);
    run_mixtures<T>(3, row, 2, make);
    run_binary<int64_t, T>(3, row, make);
    run_binary<int32_t, T>(3, row, make);
    run_binary<uint8_t, T>(3, row, make);
  }
  for (const int64_t num_classes : {2, 5, 27, 128, 260}) run_discrete<T>(2, 3, num_classes, make);
  run_rows<T>(700);
  memory.clear();
}

}  // namespace

int main() {
  run_all<float>("float32", [](int64_t count) { return dense<float>(count); });
  run_all<float>("bfloat16", [](int64_t count) { return narrow(count, DType::kBFloat16); });
  run_all<float>("float16", [](int64_t count) { return narrow(count, DType::kHalf); });
  run_all<float>("float32, strided", [](int64_t count) { return strided<float>(1, count); });
  run_all<double>("float64", [](int64_t count) { return dense<double>(count); });
  // more classes than are held: the last row is one that is not known, beyond which nothing may be read
  run_discrete<float>(1, 4, 4100, [](int64_t count) { return dense<float>(count); });
  run_continuous<float>(1, 5000, [](int64_t count) { return dense<float>(count); });
  for (const int64_t count : {3000, 3001}) run_expected_values(count);  // whole packs, and one by one
  std::puts("done");
}
