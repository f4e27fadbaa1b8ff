// The model in ONNX Runtime.
#include "runtime.h"
#include <numeric>
#include <onnxruntime_cxx_api.h>

struct Model::State {
    Ort::Env environment;
    Ort::Session session{nullptr};
    bool takes_bytes = false;
    std::vector<std::string> names;
};

Model::Model(const std::string& path, int threads) : state(std::make_unique<State>()) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    options.SetInterOpNumThreads(1);
    state->session = Ort::Session(state->environment, path.c_str(), options);
    const auto type = state->session.GetInputTypeInfo(0);
    state->takes_bytes = type.GetTensorTypeAndShapeInfo().GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < state->session.GetOutputCount(); i++)
        state->names.push_back(state->session.GetOutputNameAllocated(i, allocator).get());
}

Model::~Model() = default;

template <typename Value>
static Floats values_of(const Ort::Value& output, size_t count) {
    const Value* values = output.GetTensorData<Value>();
    return Floats(values, values + count);
}

static Output read(const Ort::Value& output) {
    const auto about = output.GetTensorTypeAndShapeInfo();
    const size_t count = about.GetElementCount();
    switch (about.GetElementType()) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return {about.GetShape(), values_of<float>(output, count)};
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return {about.GetShape(), values_of<int64_t>(output, count)};
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return {about.GetShape(), values_of<uint8_t>(output, count)};
        default: return {about.GetShape(), values_of<bool>(output, count)};
    }
}

std::vector<Output> Model::run(const Floats& images, const std::vector<int64_t>& shape) {
    std::vector<uint8_t> bytes;
    if (state->takes_bytes) bytes.assign(images.begin(), images.end());
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value input =
        state->takes_bytes
            ? Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(), bytes.size(), shape.data(), shape.size())
            : Ort::Value::CreateTensor<float>(memory, const_cast<float*>(images.data()), images.size(), shape.data(),
                                              shape.size());
    std::vector<const char*> names;
    for (const auto& name : state->names) names.push_back(name.c_str());
    const char* input_name = "images";
    std::vector<Output> outputs;
    for (const auto& output :
         state->session.Run(Ort::RunOptions(), &input_name, &input, 1, names.data(), names.size()))
        outputs.push_back(read(output));
    return outputs;
}
