// Outputs -> boxes in pixels of the image, label maps or probabilities.
#include "decode.h"
#include <algorithm>
#include <cmath>
#include <numeric>

using Box = std::array<float, 4>;

static std::vector<Box> anchors(const Json& how) {
    std::vector<Box> result;
    if (how.contains("boxes")) return how["boxes"].get<std::vector<Box>>();
    for (const Json& map : how["maps"]) {
        const int rows = map["rows"], columns = map["columns"];
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++)
                for (const Json& shape : map["shapes"]) {
                    const double x = (column + 0.5) / columns, y = (row + 0.5) / rows;
                    const double width = double(shape[0]) / 2, height = double(shape[1]) / 2;
                    result.push_back({float(x - width), float(y - height), float(x + width), float(y + height)});
                }
    }
    return result;
}

// The four distances from an anchor's center, each the mean of a distribution over the bins 0, 1, 2, ...
static Box decode_distances(const float* logits, size_t bins, const Box& anchor, Size image) {
    Box distances;
    for (int side = 0; side < 4; side++) {
        const float* own = logits + side * bins;
        const float most = *std::max_element(own, own + bins);
        float total = 0, sum = 0;
        for (size_t bin = 0; bin < bins; bin++) {
            const float power = std::exp(own[bin] - most);
            total += power;
            sum += power * float(bin);
        }
        distances[side] = sum / total;
    }
    Box box;
    for (int axis : {0, 1}) {
        const float side = anchor[axis + 2] - anchor[axis], center = (anchor[axis] + anchor[axis + 2]) / 2;
        const float pixels = float(axis ? image.height : image.width);
        box[axis] = std::clamp(center - distances[axis] * side, 0.f, 1.f) * pixels;
        box[axis + 2] = std::clamp(center + distances[axis + 2] * side, 0.f, 1.f) * pixels;
    }
    return box;
}

static Box decode_box(const float* deltas, const Box& anchor, const Json& coder, Size image) {
    std::array<float, 4> t;
    for (int i = 0; i < 4; i++) t[i] = deltas[i] / float(coder["scales"][i]);
    if (!coder["max_log_ratio"].is_null())
        for (int i : {2, 3}) t[i] = std::min(t[i], float(coder["max_log_ratio"]));
    Box box;
    for (int axis : {0, 1}) {
        const float side = anchor[axis + 2] - anchor[axis];
        const float center = t[axis] * side + (anchor[axis] + anchor[axis + 2]) / 2;
        const float half = std::exp(t[axis + 2]) * side / 2, pixels = float(axis ? image.height : image.width);
        box[axis] = std::clamp(center - half, 0.f, 1.f) * pixels;
        box[axis + 2] = std::clamp(center + half, 0.f, 1.f) * pixels;
    }
    return box;
}

static double overlap(const Box& a, const Box& b) {
    const double width = std::min(a[2], b[2]) - std::max(a[0], b[0]), height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
    const double shared = std::max(0.0, width) * std::max(0.0, height);
    const double areas = double(a[2] - a[0]) * (a[3] - a[1]) + double(b[2] - b[0]) * (b[3] - b[1]);
    return shared / (areas - shared);
}

// Scores of one anchor -> confidences of the classes, without the background.
static void confidences(const float* scores, size_t columns, const Json& how, float* result) {
    const size_t background = how["background_column"].is_null() ? SIZE_MAX : size_t(how["background_column"]);
    const float most = *std::max_element(scores, scores + columns);
    float total = 0;
    for (size_t k = 0; k < columns; k++) total += std::exp(scores[k] - most);
    for (size_t k = 0; k < columns; k++)
        if (k != background)
            *result++ = how["activation"] == "sigmoid" ? 1 / (1 + std::exp(-scores[k])) : std::exp(scores[k] - most) / total;
}

static std::vector<Detection> suppressed(const std::vector<Box>& boxes, const Floats& scores, const Json& limits) {
    const size_t classes = scores.size() / boxes.size();
    const auto limit = [&](const char* name) { return limits[name].is_null() ? SIZE_MAX : size_t(limits[name]); };
    const size_t per_class = limit("per_class"), candidates = limit("candidates"), most = limit("max_detections");
    const float lowest = limits["score_threshold"];
    std::vector<size_t> order;
    for (size_t i = 0; i < scores.size(); i++)
        if (scores[i] > lowest) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    std::vector<size_t> seen(classes);
    std::vector<std::vector<Box>> kept(classes);
    std::vector<Detection> result;
    for (size_t i : order) {
        if (result.size() == most) break;
        const Box& box = boxes[i / classes];
        const size_t label = i % classes;
        const bool empty = !(box[2] > box[0] && box[3] > box[1]);
        if (++seen[label] > candidates || kept[label].size() == per_class || empty) continue;
        const auto covers = [&](const Box& other) { return overlap(box, other) > double(limits["iou_threshold"]); };
        if (std::any_of(kept[label].begin(), kept[label].end(), covers)) continue;
        kept[label].push_back(box);
        result.push_back({box, scores[i], int(label)});
    }
    return result;
}

std::vector<Detection> detections(const std::vector<Output>& outputs, const Json& about, Size image) {
    const Floats &first = outputs[0].values, &scores = outputs[1].values;
    std::vector<Detection> result;
    if (about["output"] == "detections") {  // boxes, scores, labels (-1: unused), exact
        const Floats& labels = outputs[2].values;
        const float sides[] = {float(image.width), float(image.height), float(image.width), float(image.height)};
        for (int64_t i = 0; i < outputs[2].shape[1] && labels[i] >= 0; i++) {
            Box box;
            for (int side = 0; side < 4; side++) box[side] = first[4 * i + side] * sides[side];
            result.push_back({box, scores[i], int(labels[i])});
        }
        return result;
    }
    const Json& how = about["decoding"];
    const std::vector<Box> places = anchors(how["anchors"]);
    const size_t columns = outputs[1].shape.back(), numbers = outputs[0].shape.back();
    const size_t classes = columns - (how["background_column"].is_null() ? 0 : 1);
    const bool by_distances = how["coder"].value("kind", "") == "distances";
    std::vector<Box> boxes;
    Floats confident(places.size() * classes);
    for (size_t i = 0; i < places.size(); i++) {
        const float* raw = first.data() + numbers * i;
        boxes.push_back(by_distances ? decode_distances(raw, numbers / 4, places[i], image)
                                     : decode_box(raw, places[i], how["coder"], image));
        confidences(scores.data() + columns * i, columns, how, confident.data() + classes * i);
    }
    return suppressed(boxes, confident, how);
}

std::vector<uint8_t> label_map(const Output& output, const Json& about, Size image) {
    const bool aligned = about["decoding"]["align_corners"];
    const Size old{int(output.shape[output.shape.size() - 2]), int(output.shape.back())};
    const size_t pixels = size_t(image.height) * image.width;
    std::vector<uint8_t> result(pixels);
    if (about["output"] == "argmax") {
        for (int y = 0; y < image.height; y++)
            for (int x = 0; x < image.width; x++) {
                const size_t row = nearest(y, old.height, image.height, aligned);
                result[size_t(y) * image.width + x] =
                    uint8_t(output.values[row * old.width + nearest(x, old.width, image.width, aligned)]);
            }
        return result;
    }
    Floats best(pixels, -INFINITY);
    for (int64_t k = 0; k < output.shape[1]; k++) {
        const float* plane = output.values.data() + k * old.height * old.width;
        const Floats scores = resize_plane(plane, old, image, How{false, false, aligned});
        for (size_t i = 0; i < pixels; i++)
            if (scores[i] > best[i]) best[i] = scores[i], result[i] = uint8_t(k);
    }
    return result;
}

std::vector<double> probabilities(const Output& logits, size_t classes) {
    const float most = *std::max_element(logits.values.begin(), logits.values.begin() + classes);
    std::vector<double> result;
    for (size_t k = 0; k < classes; k++) result.push_back(std::exp(double(logits.values[k] - most)));
    const double total = std::accumulate(result.begin(), result.end(), 0.0);
    for (double& value : result) value /= total;
    return result;
}
