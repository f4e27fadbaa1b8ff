// Outputs -> predictions: see decode.py beside this folder.
#pragma once
#include <array>
#include "image.h"

struct Detection { std::array<float, 4> box; float score; int label; };

std::vector<Detection> detections(const std::vector<Output>& outputs, const Json& about, Size image);
std::vector<uint8_t> label_map(const Output& output, const Json& about, Size image);
std::vector<double> probabilities(const Output& logits, size_t classes);
