#!/bin/sh
# Build the container images with Docker, under the names and tags of components/images.py. Does not push.
#   images/build.sh [REGISTRY] [NAME...]      images/build.sh registry.example.com/team light
# DOCKER_BUILD_OPTIONS adds options of `docker build`, such as --network host or --build-arg https_proxy=...
set -eu
cd "$(dirname "$0")/.."

registry=${1:-${CALLFORGE_REGISTRY:-ghcr.io/callforge}}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- light train
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' components/images.py)
commit=$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

for name; do
    image="$registry/callforge-$name:$version"
    # shellcheck disable=SC2086  # several options in one variable
    docker build ${DOCKER_BUILD_OPTIONS:-} -f "images/$name/Dockerfile" --build-arg "CALLFORGE_COMMIT=$commit" -t "$image" .
    echo "built $image; push it with: docker push $image"
done
