// Predict with the model of a kit: predict <folder of the kit> <image> [lowest score, or file for the label map]
//
// Prints what run.py prints: class, score, left, top, right and bottom of each box; the pixels of each class; or
// the likeliest classes. Apache-2.0; from mobilenet-dense, deploy/device/cpp.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include "decode.h"

static int predict(int count, char** arguments) {
    if (count < 3) return std::fprintf(stderr, "usage: predict <kit> <image> [lowest score | label map.png]\n"), 2;
    const std::string folder = arguments[1], photo = arguments[2], extra = count > 3 ? arguments[3] : "";
    std::ifstream description(folder + "/preprocess.json");
    if (!description) return std::fprintf(stderr, "%s: not a kit (it has no preprocess.json)\n", folder.c_str()), 1;
    const Json about = Json::parse(description);
    const cv::Mat bgr = read_image(photo, about["preprocessing"]);
    if (bgr.empty()) return std::fprintf(stderr, "%s: not an image of 8 or 16 bits per channel\n", photo.c_str()), 1;
    const Size image{bgr.rows, bgr.cols};

    Size size{};
    const Floats one = network_input(bgr, about, size);
    const Json& batch = about["input"]["shape"][0];
    const int64_t images = batch.is_null() ? 1 : int64_t(batch);
    Floats input;
    for (int64_t n = 0; n < images; n++) input.insert(input.end(), one.begin(), one.end());
    Model model(folder + "/" + std::string(about["file"]), 1);
    const auto outputs = model.run(input, {images, 3, size.height, size.width});

    std::vector<std::string> names;
    for (const auto& entry : about["classes"]["classes"]) names.push_back(entry["name"]);
    if (about["task"] == "det") {
        char* rest = nullptr;
        const double given = std::strtod(extra.c_str(), &rest);
        if (*rest) return std::fprintf(stderr, "%s: the lowest score must be a number\n", extra.c_str()), 2;
        const double lowest = extra.empty() ? about["decoding"].value("draw_threshold", 0.0) : given;
        for (const auto& [box, score, label] : detections(outputs, about, image))
            if (score >= lowest)
                std::printf("%s %.4f %.2f %.2f %.2f %.2f\n", names[label].c_str(), score, box[0], box[1], box[2], box[3]);
    } else if (about["task"] == "seg") {
        const auto labels = label_map(outputs[0], about, image);
        std::vector<long long> pixels(names.size());
        for (const uint8_t label : labels) pixels[label]++;
        for (size_t k = 0; k < names.size(); k++) std::printf("%s %lld\n", names[k].c_str(), pixels[k]);
        if (!extra.empty()) {  // ids of the data set, as in run.py's masks but without colors
            cv::Mat ids(image.height, image.width, CV_16U);
            for (int i = 0; i < image.height * image.width; i++)
                ids.at<uint16_t>(i / image.width, i % image.width) = about["classes"]["classes"][labels[i]]["id"];
            double most;
            cv::minMaxLoc(ids, nullptr, &most);
            if (most < 256) ids.convertTo(ids, CV_8U);
            if (!cv::imwrite(extra, ids)) return std::fprintf(stderr, "%s: cannot be written\n", extra.c_str()), 1;
        }
    } else {
        const auto shares = probabilities(outputs[0], names.size());
        std::vector<size_t> order(names.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return shares[a] > shares[b]; });
        for (size_t i = 0; i < std::min<size_t>(5, order.size()); i++)
            std::printf("%s %.6f\n", names[order[i]].c_str(), shares[order[i]]);
    }
    return 0;
}

int main(int count, char** arguments) {
    try {
        return predict(count, arguments);
    } catch (const std::exception& error) {  // of JSON, ONNX Runtime and OpenCV
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
}
