# The one-machine cluster's stand-in for python:3.11-slim, made by debootstrap.
FROM scratch
ADD root.tar /
ENV LANG=C.UTF-8
CMD ["python3"]
