# One static binary and the certificates it may need: no shell, no packages, an account without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /out/eprod ./cmd/eprod && \
    mkdir -p /out/writable && mkdir -m 0700 /out/writable/data && mkdir -m 1777 /out/writable/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/eprod /eprod
COPY --from=build --chown=65532:65532 /out/writable/ /
USER 65532:65532
WORKDIR /data
ENV EPROD_DATA_DIR=/data
VOLUME /data
# Only the public listener. The operators' listener stays on 127.0.0.1:9090 inside the container, where the health check
# asks it. To publish it to a private network set EPROD_HTTP__OPS_LISTEN=0.0.0.0:9090.
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["/eprod", "health"]
ENTRYPOINT ["/eprod"]
CMD ["serve"]
