// An image -> the network's input. OpenCV only reads the image.
#include "image.h"
#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <opencv2/imgcodecs.hpp>

struct Tap { int first; std::vector<double> weights; };

// For each output position: the first input position that it is computed from, and the weights from there on.
static std::vector<Tap> taps(int length, int new_length, How how) {
    const double scale = double(length) / new_length;
    std::vector<Tap> result;
    for (int i = 0; i < new_length; i++) {
        const double step = new_length > 1 ? double(length - 1) / (new_length - 1) : 0;
        const double center = how.aligned ? i * step + 0.5 : (i + 0.5) * scale;
        const double reach = how.area ? scale / 2 : how.antialias ? std::max(scale, 1.0) : 1.0;
        Tap tap{std::max(0, int(std::floor(center - reach))), {}};
        for (int x = tap.first; x < std::min(double(length), center + reach); x++) {
            const double covered = std::min(x + 1.0, center + reach) - std::max(double(x), center - reach);
            tap.weights.push_back(how.area ? covered : std::max(0.0, 1 - std::abs(x + 0.5 - center) / reach));
        }
        const double total = std::accumulate(tap.weights.begin(), tap.weights.end(), 0.0);
        for (double& weight : tap.weights) weight /= total;
        if (how.antialias)  // Pillow's weights have 22 bits
            for (double& weight : tap.weights) weight = std::floor(weight * 4194304 + 0.5) / 4194304;
        result.push_back(tap);
    }
    return result;
}

// One plane of old numbers -> new ones. Pillow, which antialiases, rounds after each axis.
Floats resize_plane(const float* plane, Size old, Size size, How how) {
    Floats across(size_t(old.height) * size.width), result(size_t(size.height) * size.width);
    const auto columns = taps(old.width, size.width, how), rows = taps(old.height, size.height, how);
    const auto rounded = [&](double value) { return float(how.antialias ? std::floor(value + 0.5) : value); };
    for (int y = 0; y < old.height; y++)
        for (int x = 0; x < size.width; x++) {
            double sum = 0;
            for (size_t k = 0; k < columns[x].weights.size(); k++)
                sum += columns[x].weights[k] * plane[size_t(y) * old.width + columns[x].first + k];
            across[size_t(y) * size.width + x] = rounded(sum);
        }
    for (int y = 0; y < size.height; y++)
        for (int x = 0; x < size.width; x++) {
            double sum = 0;
            for (size_t k = 0; k < rows[y].weights.size(); k++)
                sum += rows[y].weights[k] * across[size_t(rows[y].first + k) * size.width + x];
            result[size_t(y) * size.width + x] = rounded(sum);
        }
    return result;
}

// For each new pixel: the pixel before its center (-1 at the border), and the weights of both neighbors.
struct Between { int before; int first, second; };

static std::vector<Between> between(int length, int new_length, bool stays_inside) {
    std::vector<Between> result;
    for (int i = 0; i < new_length; i++) {
        const float exact = float((i + 0.5) * (double(length) / new_length) - 0.5);
        int before = int(std::floor(exact));
        float distance = exact - float(before);
        if (stays_inside && (before < 0 || before >= length - 1)) distance = 0;
        if (stays_inside) before = std::clamp(before, 0, length - 1);
        result.push_back({before, int(std::nearbyint((1 - distance) * 2048)), int(std::nearbyint(distance * 2048))});
    }
    return result;
}

// The values of OpenCV's INTER_LINEAR for bytes, which uses integers: weights of 11 bits, rounded in two steps.
static Floats resize_bytes(const std::vector<int>& plane, Size old, Size size) {
    std::vector<int> across(size_t(old.height) * size.width);
    const auto columns = between(old.width, size.width, true);
    for (int y = 0; y < old.height; y++)
        for (int x = 0; x < size.width; x++) {
            const auto [left, first, second] = columns[x];
            const int* row = plane.data() + size_t(y) * old.width;
            across[size_t(y) * size.width + x] = (row[left] * first + row[std::min(left + 1, old.width - 1)] * second) >> 4;
        }
    Floats result;
    for (const auto& [top, first, second] : between(old.height, size.height, false)) {
        const int* upper = across.data() + size_t(std::clamp(top, 0, old.height - 1)) * size.width;
        const int* lower = across.data() + size_t(std::clamp(top + 1, 0, old.height - 1)) * size.width;
        for (int x = 0; x < size.width; x++)
            result.push_back(float((((first * upper[x]) >> 16) + ((second * lower[x]) >> 16) + 2) >> 2));
    }
    return result;
}

static Size new_size(Size image, const Json& how, const Json& shape) {
    const int shorter = std::min(image.height, image.width);
    if (how["mode"] == "shorter_side") {
        const int side = how["side"];
        return {int(int64_t(side) * image.height / shorter), int(int64_t(side) * image.width / shorter)};
    }
    if (how["mode"] == "scale") {  // nearbyint rounds halves to even
        const double factor = how["factor"];
        return {std::max(1, int(std::nearbyint(image.height * factor))),
                std::max(1, int(std::nearbyint(image.width * factor)))};
    }
    if (!shape[2].is_null()) return {shape[2], shape[3]};
    return how.contains("size") ? Size{how["size"][0], how["size"][1]} : image;
}

cv::Mat read_image(const std::string& path, const Json& preprocessing) {
    const int turn = preprocessing["upright"] ? 0 : cv::IMREAD_IGNORE_ORIENTATION;
    cv::Mat bgr = cv::imread(path, cv::IMREAD_COLOR | cv::IMREAD_ANYDEPTH | turn);  // without alpha
    if (bgr.depth() == CV_16U) {
        char start[2] = {};
        std::ifstream(path, std::ios::binary).read(start, 2);
        if ((start[0] == 'I' || start[0] == 'M') && start[1] == start[0])  // OpenCV reads some kinds wrongly
            throw std::runtime_error(path + ": a TIFF file of 16 bits per channel; save it as PNG");
        // the conversion also clips
        const Json& range = preprocessing["pixel_range"];
        const double black = range.is_null() ? 0 : double(range[0]), white = range.is_null() ? 65535 : double(range[1]);
        bgr.convertTo(bgr, CV_8U, 255 / (white - black), -black * 255 / (white - black));
    }
    return bgr.depth() == CV_8U ? bgr : cv::Mat();
}

Floats network_input(const cv::Mat& bgr, const Json& about, Size& size) {
    const Json &preprocessing = about["preprocessing"], &how = preprocessing["resize"];
    const Size image{bgr.rows, bgr.cols}, whole = new_size(image, how, about["input"]["shape"]);
    const bool smaller = whole.height <= image.height && whole.width <= image.width;
    const How method{how.value("antialias", false), smaller && how.value("when_smaller", "") == "area"};
    const bool same = whole.height == image.height && whole.width == image.width;
    const bool crops = how.contains("center_crop") && !how["center_crop"].is_null();
    size = crops ? Size{how["center_crop"][0], how["center_crop"][1]} : whole;
    if (about.contains("min_size") && (size.height < about["min_size"][0] || size.width < about["min_size"][1]))
        throw std::runtime_error("the image becomes an input that is smaller than min_size in preprocess.json");
    const int top = int(std::nearbyint((whole.height - size.height) / 2.0));
    const int left = int(std::nearbyint((whole.width - size.width) / 2.0));
    const bool halves = 2 * whole.height == image.height && 2 * whole.width == image.width;
    const auto rounded = [&](float v) { return halves ? std::floor(v + 0.5f) : std::nearbyint(v); };
    Floats input;
    for (int channel : {2, 1, 0}) {  // OpenCV reads BGR
        std::vector<int> bytes;
        for (int y = 0; y < image.height; y++)
            for (int x = 0; x < image.width; x++) bytes.push_back(bgr.at<cv::Vec3b>(y, x)[channel]);
        const Floats plane(bytes.begin(), bytes.end());
        const Floats resized = same ? plane
                               : method.antialias || method.area ? resize_plane(plane.data(), image, whole, method)
                                                                 : resize_bytes(bytes, image, whole);
        for (int y = top; y < top + size.height; y++)
            for (int x = left; x < left + size.width; x++)
                input.push_back(rounded(resized[size_t(y) * whole.width + x]));
    }
    if (!preprocessing["in_graph"]) {
        const size_t plane = size_t(size.height) * size.width;
        for (size_t i = 0; i < input.size(); i++)
            input[i] = (input[i] - float(preprocessing["mean"][i / plane])) / float(preprocessing["std"][i / plane]);
    }
    return input;
}

int nearest(int place, int length, int new_length, bool aligned) {
    if (!aligned) return int((2 * int64_t(place) + 1) * length / (2 * int64_t(new_length)));
    const int64_t steps = std::max(new_length - 1, 1);
    return int((2 * int64_t(place) * (length - 1) + steps) / (2 * steps));
}
