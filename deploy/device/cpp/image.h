// An image -> the network's input, with the values of training: see image.py beside this folder.
#pragma once
#include <string>
#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include "runtime.h"

using Json = nlohmann::json;
struct Size { int height, width; };
struct How { bool antialias = false, area = false, aligned = false; };

cv::Mat read_image(const std::string& path, const Json& preprocessing);  // BGR, empty if it cannot be read
Floats network_input(const cv::Mat& bgr, const Json& about, Size& size);  // [3, height, width]; sets `size`
Floats resize_plane(const float* plane, Size old, Size size, How how);   // bilinear, or the mean over areas
int nearest(int place, int length, int new_length, bool aligned);
