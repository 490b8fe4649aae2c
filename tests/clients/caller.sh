#!/bin/sh
# Lets rclone write an object and list a bucket, and prints the answers, which tell who the caller is.
rclone rcat --s3-no-check-bucket --s3-no-head --dump=bodies :s3:bucket/key 2>&1 &&
    rclone lsf --dump=bodies :s3:bucket 2>&1
