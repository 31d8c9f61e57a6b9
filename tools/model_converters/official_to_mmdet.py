"""Convert the detector of HCGNet's authors, of MMDetection 1.x, to today's MMDetection.

Test it with configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn_1x_coco_v1.py, whose anchors, box coder and
RoIAlign are those that it was trained with.
"""

from mmhcgnet import cli, convert


def main() -> None:
    source = "HCGNet_detection.pth or another Mask R-CNN of the authors' detection program"
    parser = cli.make_parser(__doc__, source, "mask-rcnn_hcgnet-<arch>_fpn_1x_coco_v1.pth")
    args = parser.parse_args()
    with cli.report_usage_errors():
        cli.convert_file(convert.official_to_mmdet, **vars(args))


if __name__ == "__main__":
    main()
