"""Data sets of images with captions."""

from normscope.data.download import DataFile, DataSet, known_file

_TASK2 = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task2/raw/"

CAPTION_SETS: dict[str, DataSet] = {
    "multi30k-task2": DataSet(
        name="multi30k-task2",
        what="31,014 images of Flickr30k, known by five English and five German descriptions each; no images",
        files=(
            known_file(
                "train.1.en.gz", 867789, "a0e057f07a9733199c0d755d77f6d583dc6f40a3180734b1130a216e2fdf3a3b", _TASK2
            ),
            known_file(
                "train.2.en.gz", 666845, "d79dd70a9eafb2d1fe40151621278c4ae69b3c148c5052a53d7c7a41bf3ba023", _TASK2
            ),
            known_file(
                "train.3.en.gz", 555423, "86e16fdcc699bcb6bca0f87c3cf1051f7de5ee3674dd588cedc5200194282749", _TASK2
            ),
            known_file(
                "train.4.en.gz", 465845, "3771b84e010ad6197806d2a1188cb07c12149e3e0d178dd5966dee5763733686", _TASK2
            ),
            known_file(
                "train.5.en.gz", 375613, "73988689307fe836994eae59735dc840c15da9775455fa76e6ed22606a042a91", _TASK2
            ),
            known_file(
                "train.1.de.gz", 456594, "0002241b52aba5160c08d644ea0d64a9bf46a2dfffcf619c9e3cdaa55b357004", _TASK2
            ),
            known_file(
                "train.2.de.gz", 496731, "ac7c29258b90aec0b64d677c5bfc831fc402e6296d0aa9cc7a3433ddbff85c37", _TASK2
            ),
            known_file(
                "train.3.de.gz", 536471, "ec5e6508813814aa31311b34e26e24f903dd7701f8d0668313259b7f975d7aa0", _TASK2
            ),
            known_file(
                "train.4.de.gz", 598066, "bcee8ac6eb47d8a7dc8cff47d9a0fbd80b4363cfda22021bacd297f9604221a4", _TASK2
            ),
            known_file(
                "train.5.de.gz", 658679, "dccb0ca6ff25e0b1f0d385f59fb809184e0db89622d88371725e3ec46d43bfc0", _TASK2
            ),
            known_file(
                "val.1.en.gz", 32603, "4ce8f8ffbef4a1c066e3f35a5ffc764666c26c318a733d9bdc6349577f1c6f9c", _TASK2
            ),
            known_file(
                "val.2.en.gz", 25187, "4103944d652127e5af33ba2761d71cb6c0e1509c1a67d4387dc67ad768cfb752", _TASK2
            ),
            known_file(
                "val.3.en.gz", 21098, "6ecd848713d98faa9c6db2e9e457a778335358e6e3a4743cf4e929a0516e399a", _TASK2
            ),
            known_file(
                "val.4.en.gz", 18091, "bfab4f0cbdac6233f206bbbfbd324dc02b258e291c3f410a69f9884171008788", _TASK2
            ),
            known_file(
                "val.5.en.gz", 14799, "4b6a6541b7b58d545eff7feead4187aeb0439a7178a7bed6951121e0ecbaee66", _TASK2
            ),
            known_file(
                "val.1.de.gz", 18297, "a6b9ad98bdab8882d2ac40d1bc05db89341947162c07d2d0d27e80f01897ba05", _TASK2
            ),
            known_file(
                "val.2.de.gz", 20082, "dbbf0f8fa54fdb4a3c64d22a1c0773ade3f775c39e4513ab5ca6d683025086dc", _TASK2
            ),
            known_file(
                "val.3.de.gz", 19518, "5eac83b577fe9bc781e60b609545123804e9dd29de4c2bd1b9e178ad8b29a1da", _TASK2
            ),
            known_file(
                "val.4.de.gz", 21542, "1c3054cfd1e47f17d8a20fcec6615cfd26d7dc2c8c4ef4625cd9db9f4e4590ea", _TASK2
            ),
            known_file(
                "val.5.de.gz", 21405, "185d6cb907313e6a6eef76f09c657e5748e08ee3c7a5b26200186e171e2c8344", _TASK2
            ),
            known_file(
                "test_2016.1.en.gz", 31678, "bf64274c8e1f73ba57d47409f707a640b3874a06e7e83adfb5a6d4c055bc6b29", _TASK2
            ),
            known_file(
                "test_2016.2.en.gz", 24829, "36c12dac199e336e74ebe91c5240a1c6cefce7af2a3f3a2054d184947932bc3c", _TASK2
            ),
            known_file(
                "test_2016.3.en.gz", 20861, "2188662d22b01c5ecf7ae6a7c003b45fc83c510d34999c2340078e75088b0f1f", _TASK2
            ),
            known_file(
                "test_2016.4.en.gz", 17667, "dcb6a0ad2ae40f54a1f9e9f20d3146c7f0a662feece2e78d2d511667bf229f08", _TASK2
            ),
            known_file(
                "test_2016.5.en.gz", 14428, "60e31317f0d960aed273d8ec527411935fb1ff3dee2c9cc9572259739ff193c0", _TASK2
            ),
            known_file(
                "test_2016.1.de.gz", 16764, "cf83315ea2e76c517fb41553ff25c7128d071397928a6b66a5d81479aeea950b", _TASK2
            ),
            known_file(
                "test_2016.2.de.gz", 19051, "327af090d22ddf624fe638f34e815b249bdfa033e3e48f55474e21d6b28efaa8", _TASK2
            ),
            known_file(
                "test_2016.3.de.gz", 21207, "b3236b4834c944cd42e6942da9041fee210cb2875574deefd41f130e5651a61b", _TASK2
            ),
            known_file(
                "test_2016.4.de.gz", 23024, "3843a960dc2c026d5d371c720cce830b6709d03c2f29e17b2923af11497da2c0", _TASK2
            ),
            known_file(
                "test_2016.5.de.gz", 23685, "c861f68362c443b07c8f919a9bd8c8ecd7f5fccf2b13bf4d4bd8e7fe8783880e", _TASK2
            ),
        ),
        licence="text from Flickr30k: non-commercial research and education; otherwise unclear",
        home="https://github.com/multi30k/dataset",
        folder="multi30k/task2",
    ),
    "coco-captions": DataSet(
        name="coco-captions",
        what="123,287 images of COCO with five captions each, and 4,096 features of VGG19, the mean of ten crops",
        # The archive of the public code of Vendrov et al.; no hash is published.
        files=tuple(
            DataFile(name=name.format(part), sha256=None)
            for part in ("train", "val", "test")
            for name in ("{}.txt", "images/10crop/{}.npy")
        ),
        licence="captions CC BY 4.0; the images are their owners', under the terms of Flickr",
        home="https://github.com/ivendrov/order-embedding",
        folder="coco",
        bring="unpack coco.zip, http://www.cs.toronto.edu/~vendrov/order/coco.zip, into one of the folders",
    ),
}
"""Data sets of images with captions, by name."""
