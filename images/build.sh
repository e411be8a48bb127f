#!/bin/sh
# Build the container images with Docker, under the names of components/images.py. Does not push.
#   images/build.sh [REGISTRY] [NAME...]      images/build.sh registry.example.com/team light
# The tag is the commit: Kubeflow caches by the image's name, so an equal tag would reuse the results of other code.
# A tree with uncommitted changes gets the time added, because two such trees may differ.
# DOCKER_BUILD_OPTIONS adds options of `docker build`, such as --network host or --build-arg https_proxy=...
set -eu
cd "$(dirname "$0")/.."

registry=${1:-${CALLFORGE_REGISTRY:-ghcr.io/callforge}}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- light train

if ! commit=$(git rev-parse --verify --quiet HEAD); then
    echo "build.sh: there is no git commit here to tag the images with; build from a clone" >&2
    exit 2
fi
tag=$commit
changes=$(git status --porcelain -- components pipelines images pyproject.toml README.md LICENSE .dockerignore)
if [ -n "$changes" ]; then
    commit=$commit-dirty
    tag=$commit-$(date -u +%Y%m%dT%H%M%SZ)
    printf 'build.sh: not committed, so the images get a tag of their own, %s:\n%s\n' "$tag" "$changes" >&2
fi

images=
for name; do
    image="$registry/callforge-$name:$tag"
    # shellcheck disable=SC2086  # several options in one variable
    docker build ${DOCKER_BUILD_OPTIONS:-} -f "images/$name/Dockerfile" --build-arg "CALLFORGE_COMMIT=$commit" -t "$image" .
    images="$images $image"
done

echo
echo "Built. Push the images, then export their names: upload, submit and compile read them from there."
for image in $images; do echo "    docker push $image"; done
echo "    export CALLFORGE_REGISTRY=$registry CALLFORGE_IMAGE_TAG=$tag"
