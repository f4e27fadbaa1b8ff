// A model in one runtime; the .cpp file of each runtime implements it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

using Floats = std::vector<float>;

struct Output {
    std::vector<int64_t> shape;
    Floats values;  // also of integers
};

class Model {
public:
    Model(const std::string& path, int threads);
    ~Model();
    // `images`: [count, 3, height, width]. Returns the outputs in the order of preprocess.json.
    std::vector<Output> run(const Floats& images, const std::vector<int64_t>& shape);

private:
    struct State;
    std::unique_ptr<State> state;
};
