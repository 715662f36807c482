# The operator's image. `build` has pip and the build tools; the final stage has what runs, owned by root, and nothing else.
# deploy/check-image builds and runs it without a Docker engine; docs/installation.md says how.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Locked by hash, wheels only: nothing of a dependency is executed before it runs in the operator.
COPY requirements/operator.txt requirements/
RUN python -m venv --without-pip /opt/vmaccess \
 && python -m pip --python /opt/vmaccess/bin/python install --quiet --no-compile --only-binary=:all: --require-hashes \
        -r requirements/operator.txt

# The build backend, from the same lock that a checkout's .venv is made of.
COPY requirements/dev.txt requirements/
RUN python -m venv --without-pip /build \
 && python -m pip --python /build/bin/python install --quiet --no-compile --only-binary=:all: --require-hashes \
        -r requirements/dev.txt

COPY pyproject.toml README.md ./
COPY operator/vmaccess operator/vmaccess
RUN /build/bin/python -m hatchling build --target wheel --directory /wheels \
 && python -m pip --python /opt/vmaccess/bin/python install --quiet --no-compile --no-deps --no-index /wheels/*.whl

# Nothing can be compiled on a read-only root, so it is compiled here; hashes that are not checked do not depend on what a
# builder makes of modification times. The kubernetes package is most of the size. Nothing of it is removed, because its
# __init__ modules reach into every part; but its thousands of models and API classes, loaded on demand, of which the
# operator needs three, stay uncompiled: that saves 40 MB. Only the
# folders of tests that packages come with go.
RUN find /opt/vmaccess/lib -depth -type d -name tests -exec rm -r {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/kubernetes/(aio/)?client/(api|models)/[^_]' /opt/vmaccess/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vmaccess-operator" \
      org.opencontainers.image.description="Delegates access to KubeVirt virtual machines: VMAccessGrant objects become ServiceAccounts, trimmed Roles and RoleBindings" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The base brings pip, and no compiled standard library.
RUN python -m pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel \
 && stdlib="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && rm -r "$stdlib/ensurepip" \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(site-packages|dist-packages|idlelib|lib2to3|tkinter|turtledemo|distutils)/' "$stdlib"
COPY --from=build /opt/vmaccess /opt/vmaccess

# kopf asks for its user's name, and a uid that only the pod's securityContext knows has none (KeyError from getpwuid).
ENV PATH=/opt/vmaccess/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    USER=vmaccess
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["vmaccess-operator"]
